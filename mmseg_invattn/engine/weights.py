"""The weights in what a checkpoint file holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .integrity import tensors_of

SHOWN = 3  # keys of each kind that a message names


class CheckpointMismatchError(ValueError):
    """The checkpoint is that of another model."""


def weights_of(checkpoint: Any, name: str) -> dict[str, Tensor]:
    """The weights in a checkpoint of MMEngine, or in a bare state dict, without the prefix of a data-parallel model.

    Args:
        checkpoint: Content of the file.
        name: Its name, for the message.

    Raises:
        CheckpointMismatchError: It holds no weights.
    """
    weights = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, Mapping) else None
    if not isinstance(weights, Mapping) or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        raise _without_weights(checkpoint, name)
    return {re.sub(r'^module\.', '', key): value for key, value in weights.items()}


def _described(content: Any) -> str:
    if isinstance(content, Tensor):
        return f'a tensor of shape {tuple(content.shape)}'
    if not isinstance(content, Mapping):
        return f'a {type(content).__name__}'
    if not content:
        return 'an empty dict'
    keys = ', '.join(map(str, list(content)[:SHOWN])) + ', ...' * (len(content) > SHOWN)
    return f'a dict with {keys}' + (' and no weights under "state_dict"' if 'state_dict' in content else '')


def check_holds_weights(checkpoint: Any, name: str) -> None:
    """Refuse content from which no model can start.

    Raises:
        CheckpointMismatchError: It is not a dict, or has no tensor anywhere in it.
    """
    if not isinstance(checkpoint, Mapping) or next(tensors_of(checkpoint), None) is None:
        raise _without_weights(checkpoint, name)


def _without_weights(checkpoint: Any, name: str) -> CheckpointMismatchError:
    return CheckpointMismatchError(
        f'{name}: there are no weights in this file, but {_described(checkpoint)}; a checkpoint holds weights under '
        '"state_dict", or is a dict of only weights'
    )

"""Loading weights that belong to the model, and refusing those that do not.

MMEngine logs what does not fit and goes on, with the rest of the model as it was initialised.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from .checkpoints import trusting
from .integrity import not_finite, refuse_tensor

SHOWN = 3  # keys of each kind in the message


class CheckpointMismatchError(ValueError):
    """A checkpoint of another model."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of wrappers for data-parallel training and for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def weights_of(checkpoint: Any, name: str) -> dict[str, Tensor]:
    """The weights in a checkpoint of MMEngine, or in a bare state dict, without the prefix of a data-parallel model.

    Args:
        checkpoint: What the file holds.
        name: Its name, for the message.

    Raises:
        CheckpointMismatchError: It holds no weights.
    """
    weights = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, Mapping) else None
    if not isinstance(weights, Mapping) or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        raise CheckpointMismatchError(
            f'{name}: there are no weights in this file, it holds {_described(checkpoint)}; a checkpoint holds '
            'them under "state_dict", or is nothing but them'
        )
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


def load_file(model: nn.Module, checkpoint: str, trust: bool = False) -> dict:
    """Load the weights of a checkpoint file or URL, all of them, into all of the model.

    Args:
        model: The model.
        checkpoint: File or URL.
        trust: Load it even where that runs code which it contains.

    Returns:
        What the file holds.

    Raises:
        UnsafeCheckpointError: It holds more than tensors and plain values, and is not trusted.
        DamagedCheckpointError: It is damaged, or its weights are not finite.
        CheckpointMismatchError: Names or shapes differ.
    """
    with trusting(trust):
        loaded = CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
    load_weights(model, loaded, checkpoint)
    return loaded


def load_weights(model: nn.Module, checkpoint: Any, name: str) -> None:
    """Load the weights of a checkpoint, all of them, into all of the model.

    Args:
        model: The model, or a wrapper of it.
        checkpoint: What the file holds.
        name: Its name, for the message.

    Raises:
        CheckpointMismatchError: Names or shapes differ; the message gives the first of them.
        NonFiniteWeightsError: Weights are NaN or infinite.
    """
    weights = weights_of(checkpoint, name)
    check_parameters_finite(model, weights, name)
    differing = load_what_fits(model, weights)
    if differing:
        raise CheckpointMismatchError(
            f'{name}: this checkpoint does not belong to the config. Of its weights are '
            f'{differing}. Take the config that it was trained with'
        )


def load_what_fits(model: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """Load weights into a model, or a wrapper of it.

    Returns:
        Which names and shapes are not the model's, the first of each kind; empty where all are.
    """
    model = unwrapped(model)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
        sized = []
    except RuntimeError as error:  # torch reports other shapes in this way, also without strict
        sized = [key for key in weights if f'size mismatch for {key}:' in str(error)]
        if not sized:
            raise
        missing, unexpected = shapes.keys() - weights.keys(), weights.keys() - shapes.keys()
        missing, unexpected = (
            [key for key in order if key in keys] for order, keys in ((shapes, missing), (weights, unexpected))
        )
    missing = [key for key in missing if not key.endswith('num_batches_tracked')]
    found = [
        ('of another shape', [f'{key} {tuple(weights[key].shape)} for {shapes.get(key)}' for key in sized]),
        ('only in the model', missing),
        ('only in the checkpoint', unexpected),
    ]
    return '; '.join(
        f'{len(keys)} {what}: {", ".join(keys[:SHOWN])}' + ', ...' * (len(keys) > SHOWN) for what, keys in found if keys
    )


def check_parameters_finite(model: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Refuse weights for parameters of the model that are NaN or infinite; a buffer may be infinite on purpose.

    Raises:
        NonFiniteWeightsError: Names the first tensor.
    """
    parameters = {key for key, _ in unwrapped(model).named_parameters()}
    for key, value in weights.items():
        bad = not_finite(value, key in parameters)
        if bad:
            refuse_tensor(name, key, bad)

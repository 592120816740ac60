"""Outputs of a model that are not finite stop what uses them: an argmax over NaN is class 0, and looks like one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..wording import counted
from .integrity import not_finite


class NonFiniteOutputError(FloatingPointError):
    """A model has computed NaN or an infinity."""


def watch_outputs(model: nn.Module) -> RemovableHandle:
    """Have every evaluation of a model checked, whatever calls it; training is left to the loss.

    It is to be the segmentor itself: what wraps it for test-time augmentation averages NaN away.

    Args:
        model: A segmentor, a classifier, a flow.

    Returns:
        What ends the watch.
    """
    return model.register_forward_hook(_check)


def _check(model: nn.Module, inputs: tuple, outputs: Any) -> None:
    # a compiler or an exporter follows shapes, not values
    if not model.training and not torch.compiler.is_compiling():
        check_outputs(outputs)


def check_outputs(outputs: Any) -> None:
    """Refuse outputs that are not finite.

    Args:
        outputs: Tensors, data samples, and lists and dicts of them.

    Raises:
        NonFiniteOutputError: Names the first tensor, and the image where the output knows it.
    """
    for name, tensor, image in _tensors(outputs, 'output', None):
        bad = not_finite(tensor)
        if bad:
            raise NonFiniteOutputError(
                f'{image or "an image"}: {name} of the model has {counted(bad, "value")} of {tensor.numel():,} not '
                'finite (NaN or infinite), so that no prediction and no metric means anything. Either its weights have '
                'diverged (use an earlier checkpoint, a lower learning rate), or its numbers overflow (leave out mixed '
                'precision)'
            )


def _tensors(node: Any, name: str, image: str | None) -> Iterator[tuple[str, Tensor, str | None]]:
    if isinstance(node, Tensor):
        yield name, node, image
    elif isinstance(node, BaseDataElement):
        image = node.metainfo.get('img_path', image)
        for key, value in node.items():
            yield from _tensors(value, name if key == 'data' else key, image)
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _tensors(value, str(key), image)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _tensors(value, name, image)

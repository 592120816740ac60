"""Outputs of a model that are not finite stop what uses them: an argmax over NaN is class 0, and looks like one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .integrity import not_finite

# of a dict; a flow or a reconstruction reports bounds that are NaN where there are none, and inverses that failed
SCORES = frozenset(['logits', 'seg_logits', 'scores'])


class NonFiniteOutputError(FloatingPointError):
    """A model has computed NaN or an infinity.

    Args:
        what: Tensor and number of values.
        image: From which; None: not known.
    """

    def __init__(self, what: str, image: str | None):
        super().__init__(
            f'{image or "an image"}: {what} are not finite (NaN or infinite), so that no prediction and no metric '
            'means anything. Either the weights have diverged (use an earlier checkpoint, a lower learning rate), or '
            'the numbers overflow (leave out mixed precision)'
        )
        self.what, self.image = what, image


@contextmanager
def outputs_of(image: str | Path) -> Iterator[None]:
    """Name the image in the error, where the model is given pixels and does not know it."""
    try:
        yield
    except NonFiniteOutputError as error:
        raise NonFiniteOutputError(error.what, error.image or str(image)) from error


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
        outputs: Tensors, data samples, dicts with scores, and lists of these.

    Raises:
        NonFiniteOutputError: Names the first tensor, and the image where the output knows it.
    """
    for name, tensor, image in _tensors(outputs, 'output', None):
        bad = not_finite(tensor)
        if bad:
            raise NonFiniteOutputError(f'{name}: {bad:,} of {tensor.numel():,} values', image)


def _tensors(node: Any, name: str, image: str | None) -> Iterator[tuple[str, Tensor, str | None]]:
    if isinstance(node, Tensor):
        yield name, node, image
    elif isinstance(node, BaseDataElement):
        image = node.metainfo.get('img_path', image)
        for key, value in node.items():
            yield from _tensors(value, name if key == 'data' else key, image)
    elif isinstance(node, Mapping):
        for key in SCORES & node.keys():
            yield from _tensors(node[key], key, image)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _tensors(value, name, image)

"""Stops an evaluation at outputs that are not finite, because an argmax over NaN looks like a prediction of class 0."""

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

# The entries of a dict that are checked. A flow or a reconstruction also has entries that may be NaN: bounds that do
# not exist, and inverses that failed.
SCORES = frozenset(['logits', 'seg_logits', 'scores'])


class NonFiniteOutputError(FloatingPointError):
    """A model has computed NaN or an infinity.

    Args:
        what: Name of the tensor and number of the values.
        image: The image that the model was given; None if not known.
    """

    def __init__(self, what: str, image: str | None):
        super().__init__(
            f'{image or "an image"}: {what} are not finite (NaN or infinite), so that predictions and metrics are '
            'meaningless. Either the weights have diverged (use an earlier checkpoint, a lower learning rate), or '
            'the numbers overflow (leave out mixed precision)'
        )
        self.what, self.image = what, image


@contextmanager
def outputs_of(image: str | Path) -> Iterator[None]:
    """Add the name of the image to an error of a model that is given only pixels."""
    try:
        yield
    except NonFiniteOutputError as error:
        raise NonFiniteOutputError(error.what, error.image or str(image)) from error


def watch_outputs(model: nn.Module) -> RemovableHandle:
    """Check the outputs of a model in every evaluation, whoever calls it. In training the loss is checked instead.

    The model must be the segmentor itself, because a wrapper for test-time augmentation can average NaN away.

    Args:
        model: A segmentor, a classifier, a flow.

    Returns:
        A handle whose ``remove()`` ends the checks.
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

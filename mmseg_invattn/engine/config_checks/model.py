"""Checks that the parts of a model fit together, by a forward pass, a loss and a prediction of a small blank image."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ...layers import constant_weights
from ...wording import counted
from .building import what
from .classes import heads_of
from .tree import ConfigError

SMALL = (64, 64)
STUMBLES = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the generators of ``random``, ``numpy`` and torch afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Use evaluation mode, in which no statistics change, and restore the mode of each module afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), random_state_kept(), constant_weights(model):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_model(model: nn.Module, size: Sequence[int] | None = None) -> None:
    """Check that backbone, neck, heads and losses of a segmentor fit together.

    It does not change weights, buffers, modes and random states. Only models of the type ``EncoderDecoder`` are
    checked.

    Args:
        model: The model on its device, without a wrapper.
        size: (H, W) of the training images. A model that fails on a smaller image is tried on this size.

    Raises:
        ConfigError: Parts do not fit together; the message names them and the features that the backbone gives.
    """
    if not isinstance(model, EncoderDecoder):
        return
    with _evaluating(model):
        try:
            _try(model, SMALL)
        except ConfigError:
            if not size or tuple(size) == SMALL:
                raise
            _try(model, size)


def _try(model: EncoderDecoder, size: Sequence[int]) -> None:
    device = next(model.parameters()).device
    image = torch.zeros(1, image_channels(model), *size, device=device)
    features = _told('model.backbone', 'its forward pass fails', '', lambda: model.backbone(image))
    given = _described('backbone', features)
    if model.with_neck:
        features = _told('model.neck', 'its forward pass fails', given, lambda: model.neck(features))
        given = _described('neck', features)
    heads = dict(heads_of(model))
    for path, head in heads.items():
        _check_inputs(path, head, features, given)
    sample = blank_sample(size, device)
    if 'model.decode_head' in heads:  # the heads of a cascade read each other's outputs
        for path, head in heads.items():
            _told(path, 'its forward pass fails', given, lambda head=head: head(features))
            classes = f'It has num_classes={head.num_classes}'
            _told(path, 'its loss fails', classes, lambda head=head: head.loss(features, [sample], model.train_cfg))
    _told('model.test_cfg', f'with {model.test_cfg} a prediction fails', '', lambda: model.predict(image, [sample]))


def _told(path: str, failed: str, given: str, run):
    """The result of ``run``; an error in it is raised again with a path before its message."""
    try:
        return run()
    except STUMBLES as error:
        kind = type(error).__name__
        raise ConfigError(f'{path}: {failed} with {kind}: {what(error)}{given and f". {given}"}') from error


def image_channels(model: nn.Module) -> int:
    """Number of channels of a segmentor's images, from the means of its preprocessor, or else from its backbone."""
    mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    if mean is not None and len(mean) > 1:  # a single mean may be meant for all channels
        return len(mean)
    backbone = getattr(model, 'backbone', None)
    channels = getattr(backbone, 'in_channels', None)
    if isinstance(channels, int):
        return channels
    convolutions = (part for part in backbone.modules() if isinstance(part, nn.Conv2d)) if backbone else iter(())
    first = next(convolutions, None)
    return first.in_channels if first is not None else 3


def _described(part: str, features: Sequence[Tensor]) -> str:
    if isinstance(features, Tensor) or not isinstance(features, Sequence):
        raise ConfigError(f'model.{part} gives a {type(features).__name__}, but heads need a list of feature maps')
    listed = ', '.join(f'{index}: {counted(feature.shape[1], "channel")}' for index, feature in enumerate(features))
    return f'The {part} gives {counted(len(features), "feature map")} ({listed})'


def _check_inputs(path: str, head: nn.Module, features: Sequence[Tensor], given: str) -> None:
    """Compare ``in_index`` and ``in_channels`` of a head with the features."""
    index, transform = getattr(head, 'in_index', None), getattr(head, 'input_transform', None)
    if not isinstance(index, int | list | tuple):
        return
    chosen = [index] if isinstance(index, int) else list(index)
    for one in chosen:
        if not -len(features) <= one < len(features):
            raise ConfigError(
                f'{path}.in_index is {index}. {given}: choose {"from 0 to " * (len(features) > 1)}{len(features) - 1}, '
                'or set out_indices of the backbone so that it gives more'
            )
    found = [features[one].shape[1] for one in chosen]
    wanted = head.in_channels
    fits = {None: found[0], 'resize_concat': sum(found)}.get(transform, found)
    if (list(wanted) if isinstance(wanted, list | tuple) else wanted) != fits:
        total = ' in all' * (transform == 'resize_concat')
        raise ConfigError(
            f'{path}.in_channels is {wanted}{total}, but in_index={index} chooses feature maps with {fits} '
            f'channels{total}. {given}: set in_channels={found if transform else found[0]}, or another in_index'
        )


def blank_sample(size: Sequence[int], device: torch.device | str) -> SegDataSample:
    """The annotation of an image (H, W) whose pixels are all of class 0."""
    shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape'), tuple(size))
    sample = SegDataSample(metainfo=dict(shapes, padding_size=[0] * 4))
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, *size, dtype=torch.long, device=device))
    return sample

"""The size of the images that a config trains on, for tools that need an input and are given no image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mmengine.config import Config

from ..compat import type_name
from .leaves import leaf_configs

# Transforms that set the size of an image -> the name of the argument, and whether that gives the width first.
CROPS = {'RandomCrop': ('crop_size', False), 'CenterCrop': ('crop_size', True), 'Pad': ('size', True)}
SPLITS = ('train', 'val', 'test')


def image_size(cfg: Config) -> tuple[int, int]:
    """(H, W) of the images that the model trains on.

    This is the size that the training pipeline crops or resizes to, or the size that the model's preprocessor pads to
    if that is larger. If neither has a size, because images are used as they are, it is the size of the validation or
    test pipeline, or ``model.image_size`` of a flow. A ``scale`` that keeps the ratio of the image is taken as written.

    Args:
        cfg: whole config. Variables of a base config, such as ``crop_size``, are not used.

    Raises:
        ValueError: The config names no size.
    """
    model = cfg.model
    padded = (model.get('data_preprocessor') or {}).get('size')
    sizes = [size for split in SPLITS for size in [_size_of(_pipeline(cfg, split))] if size]
    trained = _size_of(_pipeline(cfg, 'train'))
    if trained and padded:
        return max(trained[0], padded[0]), max(trained[1], padded[1])
    size = padded or (sizes[0] if sizes else model.get('image_size'))
    if not size:
        raise ValueError(
            'the config names no image size, neither in its pipelines nor in model.data_preprocessor: '
            'give --shape H W or --image FILE'
        )
    return size[0], size[1]


def _pipeline(cfg: Config, split: str) -> Iterable[dict]:
    loader = cfg.get(f'{split}_dataloader') or {}
    for config in leaf_configs(loader['dataset']) if loader.get('dataset') else ():
        return config.get('pipeline') or ()
    return cfg.get('test_pipeline') or () if split == 'test' else ()


def _size_of(pipeline: Iterable[dict]) -> tuple[int, int] | None:
    """(H, W) that the last transform with a size gives every image; None if no transform sets a size."""
    size = None
    for step in pipeline:
        kind = type_name(step)
        if kind in CROPS and step.get(CROPS[kind][0]):
            name, width_first = CROPS[kind]
            size = _pair(step[name], width_first)
        elif kind in ('Resize', 'RandomResize') and isinstance(step.get('scale'), Sequence):
            size = _pair(step['scale'], True)
    return size


def _pair(size: int | Sequence, width_first: bool) -> tuple[int, int] | None:
    first, second = (size, size) if isinstance(size, int) else size
    if not isinstance(first, int):  # a range of sizes
        return None
    return (second, first) if width_first else (first, second)

"""Reads an image file as the test data set of a config would, for tools that are given files and no data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmseg.structures import SegDataSample
from torch import Tensor

from ..datasets.checks import strict_image_loader, value_of
from ..datasets.leaves import leaf_configs, loads_labels
from .config_checks import explained
from .config_checks.building import what

SPLITS = ('test', 'val')
SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')


class Loaded(NamedTuple):
    """An image at the end of a pipeline.

    Attributes:
        inputs: (C, H, W), the input of the model's preprocessor.
        sample: the data sample with the pipeline's notes about the image.
        image: the image as loaded, (H, W) or (H, W, C), with blue first if it has colours.
    """

    inputs: Tensor
    sample: SegDataSample
    image: np.ndarray


class TestedPipeline:
    """The pipeline of the data set that a config tests (also inside wrappers), without the loading of labels.

    If a config tests nothing, the pipeline is that of the validation data, or else its variable ``test_pipeline``.
    Loading is as strict as in a test, see :func:`~mmseg_invattn.datasets.checks.make_loading_strict`.

    Args:
        cfg: The whole config.
        shape: (H, W) to which every image is resized, instead of the pipeline's own resizing.

    Attributes:
        steps: The configs of its transforms.
        reduce_zero_label: Whether label files of the data set count classes from 1.
        suffixes: Endings of image files, in lower case.

    Raises:
        ConfigError: A transform cannot be built.
        ValueError: The config has no such pipeline.
    """

    __test__ = False  # pytest would take the class for a test by its name

    def __init__(self, cfg: Config, shape: Sequence[int] | None = None) -> None:
        init_default_scope(cfg.get('default_scope') or 'mmseg')
        self.steps, dataset = _pipeline_of(cfg)
        self.reduce_zero_label = bool(value_of(dataset, 'reduce_zero_label'))
        own = value_of(dataset, 'img_suffix')
        self.suffixes = SUFFIXES + ((own.lower(),) if isinstance(own, str) and own else ())
        self.shape = shape
        with explained(cfg):
            transforms = [step for step in Compose(self.steps).transforms if not loads_labels(step)]
        for step in transforms:
            if isinstance(step, LoadImageFromFile):
                step.backend_args = None  # the file is local, even if those of the data set are not
        self.transforms = [strict_image_loader(step) for step in transforms]
        if shape is not None:
            self.transforms = [step for step in self.transforms if 'Resize' not in type(step).__name__]

    def __call__(self, file: str | Path) -> Loaded:
        """Read a file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is damaged, or not an image that the pipeline can read.
        """
        if not Path(file).is_file():
            raise FileNotFoundError(f'{file}: there is no such image')
        results, image = self._start(file), None
        for step in self.transforms:
            results = _applied(step, results, file)
            if image is None and isinstance(results.get('img'), np.ndarray):
                if self.shape is not None:
                    _resize(results, self.shape)
                image = results['img'].copy()
        if image is None or not isinstance(results.get('inputs'), Tensor):
            raise ValueError(
                f'{file}: the pipeline of the test data does not end with the input of a model: it must begin with a '
                "transform that loads the image, such as dict(type='LoadImageFromFile'), and end with "
                "dict(type='PackSegInputs')"
            )
        return Loaded(results['inputs'], results['data_samples'], image)

    def _start(self, file: str | Path) -> dict:
        """The entries that a data set of MMSegmentation has for an image without a label."""
        return dict(
            img_path=str(file), sample_idx=0, seg_fields=[], label_map=None, reduce_zero_label=self.reduce_zero_label
        )


def _pipeline_of(cfg: Config) -> tuple[Sequence[Mapping], Mapping]:
    """The pipeline that images are tested with, and the config of its data set."""
    for split in SPLITS:
        loader = cfg.get(f'{split}_dataloader') or {}
        leaves = list(leaf_configs(loader['dataset'])) if loader.get('dataset') else []
        pipelines = [value_of(leaf, 'pipeline') for leaf in leaves]
        if pipelines and pipelines[0]:
            if any(other != pipelines[0] for other in pipelines[1:]):
                print_log(
                    f'WARNING: the data sets of {split}_dataloader have different pipelines: images are read by that '
                    'of the first'
                )
            return pipelines[0], leaves[0]
    if cfg.get('test_pipeline'):
        return cfg.test_pipeline, {}
    raise ValueError(
        'the config has no pipeline to read an image with: give test_dataloader (or val_dataloader) a '
        'dataset=dict(pipeline=[...]), as in the configs of configs/_base_/datasets'
    )


def _applied(step: object, results: dict, file: str | Path) -> dict:
    """The result of a transform; its errors are raised again with the names of the transform and the file."""
    name = type(step).__name__
    try:
        results = step(results)
    except (OSError, ValueError):  # these name the file themselves
        raise
    except Exception as error:
        if isinstance(error, KeyError) and error.args[:1] == ('seg_map_path',):
            return results  # it reads a label, but there is none
        raise ValueError(
            f'{file}: {name}, of the pipeline of the test data, fails with {type(error).__name__}: {what(error)}'
        ) from error
    if results is None:
        raise ValueError(f'{file}: {name}, of the pipeline of the test data, finds nothing in it that it can read')
    return results


def _resize(results: dict, shape: Sequence[int]) -> None:
    size = tuple(shape)
    results['img'] = cv2.resize(results['img'], size[::-1])
    results['img_shape'] = results['ori_shape'] = size

"""Paints the predictions of a test over the images as the test has loaded them."""

from __future__ import annotations

import os.path as osp
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.runner import Runner
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample

from ...datasets.leaves import leaf_datasets
from ...datasets.pictures import to_picture


@HOOKS.register_module()
class TestedPictureHook(SegVisualizationHook):
    """A ``SegVisualizationHook`` that paints every prediction of a test over the image as its data set loads it.

    MMSegmentation's own hook decodes every file as 8-bit colour, however the pipeline loads it, and some versions
    overwrite pictures of images that have the same name.

    Args:
        **kwargs: Arguments of ``SegVisualizationHook``.
    """

    __test__ = False  # pytest would take the class for a test by its name

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.painted = 0

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[SegDataSample]
    ) -> None:
        """Paint the predictions of a batch."""
        if not self.draw:
            return
        for sample in outputs:
            self.painted += 1
            self._visualizer.add_datasample(
                f'test_{osp.basename(sample.img_path)}',
                to_picture(_loaded(runner.test_loop.dataloader.dataset, sample.img_path)),
                data_sample=sample,
                show=self.show,
                wait_time=self.wait_time,
                step=self.painted,
            )


def _loaded(dataset: object, file: str) -> np.ndarray:
    """An image as the first transforms of the data set's pipeline load it."""
    results = dict(img_path=file, seg_fields=[], sample_idx=0)
    for transform in next(leaf_datasets(dataset)).pipeline.transforms:
        results = transform(results)
        if isinstance(results.get('img'), np.ndarray):
            break
    return results['img']

"""Tells metrics that write predictions the folder of the images, so that each file keeps its image's sub-folder."""

from __future__ import annotations

import os.path as osp

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from mmseg.registry import HOOKS

from ...datasets.leaves import image_root, leaf_datasets


@HOOKS.register_module()
class PredictionFilesHook(Hook):
    """Gives the metrics of a validation or a test the folder of its images, before it begins.

    Metrics of this package use it (``prediction_files``). Other metrics name their files after the image alone, so that
    two images of the same name are an error if such a metric writes files.
    """

    def before_val(self, runner: Runner) -> None:
        """Before a validation."""
        _tell(runner.val_loop)

    def before_test(self, runner: Runner) -> None:
        """Before a test."""
        _tell(runner.test_loop)


def _tell(loop: BaseLoop) -> None:
    dataset = loop.dataloader.dataset
    for metric in getattr(getattr(loop, 'evaluator', None), 'metrics', ()):
        if hasattr(metric, 'prediction_files'):
            metric.prediction_files.root = image_root(dataset)
        elif getattr(metric, 'output_dir', None):
            _refuse_same_names(metric, dataset)


def _refuse_same_names(metric: object, dataset: object) -> None:
    seen: dict[str, str] = {}
    for leaf in leaf_datasets(dataset):
        for index in range(len(leaf)):
            path = leaf.get_data_info(index).get('img_path')
            if path is None:  # no files
                break
            name = osp.splitext(osp.basename(path))[0]
            if seen.setdefault(name, path) != path:
                raise ValueError(
                    f'{seen[name]} and {path} have the same name, and {type(metric).__name__} names its files after '
                    'the image alone, so that one would replace the other: rename one, or use SegMetric, '
                    'which keeps sub-folders'
                )

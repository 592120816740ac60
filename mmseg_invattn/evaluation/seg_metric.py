"""IoUMetric that also gives the IoU of each class and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.dist import broadcast_object_list
from mmseg.registry import METRICS
from torch import Tensor

from ..engine.means import tell_means
from .confusion import add_pairs, check_suffix, class_iou, count_pairs, write_confusion
from .writing_iou_metric import WritingIoUMetric


@METRICS.register_module()
class SegMetric(WritingIoUMetric):
    """``IoUMetric`` that also returns ``IoU/<class>`` and keeps the confusion matrix.

    It returns the values of ``IoUMetric`` (aAcc, mIoU, mAcc, ... in per cent with two decimals) and prints the same
    table. A class that is neither in the labels nor predicted is NaN and left out of the means; a warning then says
    over how many classes the means are taken. All values are computed from one confusion matrix in int64. A label or a
    prediction that is not a class is an error; ``IoUMetric`` drops it silently.

    Each sample is one result, so that MMEngine can drop the samples that a distributed sampler repeats.
    :class:`.WritingIoUMetric` says which files are written, and what happens with data without labels.

    Args:
        ignore_index: This and all other arguments except the last are those of ``IoUMetric``.
        confusion_file: File for the confusion matrix of the last evaluation, ``.npy`` or ``.csv``.

    Attributes:
        confusion_matrix: int64 of shape (K, K) after ``evaluate``, on every rank; rows are the ground truth.
    """

    def __init__(
        self,
        ignore_index: int = 255,
        iou_metrics: Sequence[str] = ('mIoU',),
        nan_to_num: int | None = None,
        beta: int = 1,
        collect_device: str = 'cpu',
        output_dir: str | None = None,
        format_only: bool = False,
        prefix: str | None = None,
        confusion_file: str | None = None,
    ) -> None:
        super().__init__(
            ignore_index,
            [iou_metrics] if isinstance(iou_metrics, str) else list(iou_metrics),
            nan_to_num,
            beta,
            collect_device,
            output_dir,
            format_only,
            prefix,
        )
        self.confusion_file = confusion_file and str(check_suffix(confusion_file))
        self.confusion_matrix: np.ndarray | None = None
        tell_means(self)

    intersect_and_union = staticmethod(count_pairs)  # IoUMetric.process keeps its result

    def compare(self, sample: dict) -> None:
        """Count the pixels of a sample.

        Raises:
            ValueError: A value is not a class; the message names the file.
        """
        try:
            super().compare(sample)
        except ValueError as error:
            raise ValueError(f'{sample.get("seg_map_path") or sample.get("img_path")}: {error}') from error

    def scores(self, results: list[Tensor]) -> dict[str, float]:
        """The metrics from the counts of all samples, (2, entries) each."""
        classes = self.dataset_meta['classes']
        matrix = self.confusion_matrix = add_pairs(results, len(classes))
        if self.confusion_file is not None:
            write_confusion(self.confusion_file, matrix, classes)
        right, truth, predicted = (
            torch.from_numpy(np.array(counts, dtype=np.float64))
            for counts in (matrix.diagonal(), matrix.sum(1), matrix.sum(0))
        )
        metrics = super().scores([(right, truth + predicted - right, predicted, truth)])
        iou = class_iou(matrix) if self.nan_to_num is None else np.nan_to_num(class_iou(matrix), nan=self.nan_to_num)
        metrics.update({f'IoU/{name}': round(100 * float(value), 2) for name, value in zip(classes, iou, strict=True)})
        return metrics

    def evaluate(self, size: int) -> dict[str, float]:
        """Evaluate ``size`` samples of all ranks; see ``BaseMetric``."""
        metrics = super().evaluate(size)
        shared = [self.confusion_matrix]
        broadcast_object_list(shared)
        self.confusion_matrix = shared[0]
        return metrics

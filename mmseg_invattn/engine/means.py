"""Over how many classes a mean IoU is: those that occur nowhere are left out of it, so that it may be 100 over one."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from mmengine.logging import print_log
from mmseg.evaluation import IoUMetric
from torch import Tensor

from ..wording import counted


def means_over(labels_K: np.ndarray, predictions_K: np.ndarray, classes: Sequence[str], nan_left_out: bool) -> str:
    """Over how many classes the means are, and why not over all; empty where each has a pixel in the labels.

    Args:
        labels_K: Pixels of each class in the labels.
        predictions_K: Pixels of each class in the predictions.
        classes: Names.
        nan_left_out: A class that is neither there nor predicted does not count; False: it has a value of its own.
    """
    absent = labels_K == 0
    if not absent.any():
        return ''
    left_out = absent & (predictions_K == 0) & nan_left_out
    texts = [f'mIoU is the mean over {len(classes) - left_out.sum()} of {counted(len(classes), "class")}']
    for those, text in (
        (left_out, 'without a pixel in the labels and in the predictions, and left out'),
        (absent & ~left_out, 'without a pixel in the labels, and counted'),
    ):
        if those.any():
            texts.append(f'{text}: {", ".join(name for name, one in zip(classes, those, strict=True) if one)}')
    return '; '.join(texts)


def tell_means(metric: IoUMetric) -> None:
    """Have a metric warn, with its result, where its means are not over all classes.

    Args:
        metric: Changed in place; once is enough.
    """
    compute = metric.total_area_to_metrics
    if getattr(compute, 'tells', False):
        return

    def told(intersect: Tensor, union: Tensor, predicted: Tensor, labels: Tensor, *rest, **more) -> dict:
        result = compute(intersect, union, predicted, labels, *rest, **more)
        classes = (metric.dataset_meta or {}).get('classes') or ()
        if len(classes) == len(labels):
            text = means_over(labels.cpu().numpy(), predicted.cpu().numpy(), classes, metric.nan_to_num is None)
            if text:
                print_log(text, 'current', logging.WARNING)
        return result

    told.tells = True
    metric.total_area_to_metrics = told

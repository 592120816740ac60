"""Tells over how many classes a mean IoU is taken: classes that occur nowhere are left out of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from mmengine.logging import print_log
from mmseg.evaluation import IoUMetric
from torch import Tensor

from ..wording import counted


def means_over(labels_K: np.ndarray, predictions_K: np.ndarray, classes: Sequence[str], nan_left_out: bool) -> str:
    """Over how many classes the means are taken, and why not over all; empty if every class occurs in the labels.

    Args:
        labels_K: Pixels of each class in the labels.
        predictions_K: Pixels of each class in the predictions.
        classes: Names.
        nan_left_out: Whether a class that is neither in the labels nor predicted is left out; False: it has a value.
    """
    absent = labels_K == 0
    if not absent.any():
        return ''
    left_out = absent & (predictions_K == 0) & nan_left_out
    texts = [f'mIoU is the mean over {len(classes) - left_out.sum()} of {counted(len(classes), "class")}']
    for those, text in (
        (left_out, 'left out, because no label and no prediction has a pixel of them'),
        (absent & ~left_out, 'counted, although no label has a pixel of them'),
    ):
        if those.any():
            texts.append(f'{text}: {", ".join(name for name, one in zip(classes, those, strict=True) if one)}')
    return '; '.join(texts)


def tell_means(metric: IoUMetric) -> None:
    """Make a metric warn, together with its result, if its means are not over all classes.

    Args:
        metric: The metric; it is changed in place. A second call changes nothing.
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

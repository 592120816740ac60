"""Checks names of metrics, which would otherwise fail only at the end of the first validation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook
from mmseg.evaluation import IoUMetric

from .building import what
from .signatures import did_you_mean
from .tree import ConfigError


def check_metrics(evaluators: Mapping[str, Evaluator | None]) -> None:
    """Check ``iou_metrics`` of ``IoUMetric`` and its subclasses.

    Raises:
        ConfigError: A name is not one of their metrics.
    """
    for split, evaluator in evaluators.items():
        for metric in getattr(evaluator, 'metrics', ()):
            if isinstance(metric, IoUMetric):
                try:
                    results_of(metric)
                except (KeyError, ValueError, TypeError) as error:
                    raise ConfigError(
                        f'{split}_evaluator.iou_metrics is {metric.metrics} ({type(metric).__name__}): {what(error)}; '
                        "choose from 'mIoU', 'mDice' and 'mFscore'"
                    ) from error


def check_save_best(hooks: list, evaluator: Evaluator | None) -> None:
    """Check that the best checkpoint is chosen by a metric that the validation measures.

    Raises:
        ConfigError: The validation does not measure it.
    """
    metrics = getattr(evaluator, 'metrics', ())
    if not metrics or not all(type(metric) is IoUMetric for metric in metrics):  # others may measure anything
        return
    names = [f'{metric.prefix}/{name}' if metric.prefix else name for metric in metrics for name in results_of(metric)]
    for hook in hooks:
        for key in (getattr(hook, 'key_indicators', None) or ()) if isinstance(hook, CheckpointHook) else ():
            if key not in ('auto', *names):
                raise ConfigError(
                    f'default_hooks.checkpoint.save_best is {key!r}, but val_evaluator does not measure that'
                    f'{did_you_mean(key, names) or "."} It measures {", ".join(names)}'
                )


def results_of(metric: IoUMetric) -> list[str]:
    """The names of the values that the metric returns."""
    one = torch.ones(1, dtype=torch.float64)
    found = metric.total_area_to_metrics(one, one, one, one, metric.metrics, metric.nan_to_num, metric.beta)
    return [name if name == 'aAcc' else f'm{name}' for name in found]

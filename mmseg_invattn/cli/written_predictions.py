"""What the evaluators of a test write, and what becomes of test data without labels: changes to the config."""

from __future__ import annotations

import os.path as osp
from collections.abc import Callable, Mapping, Sequence

from mmengine.config import Config

from ..compat import type_name


def evaluators_of(cfg: Config) -> list:
    """The configs of the evaluators of the test."""
    found = cfg.get('test_evaluator')
    if isinstance(found, Mapping) and 'metrics' in found:  # an evaluator with its metrics
        found = found['metrics']
    return [one for one in (found if isinstance(found, (list, tuple)) else [found]) if isinstance(one, Mapping)]


def write_predictions(cfg: Config, folder: str) -> None:
    """Make the evaluators write their predictions; if several can, each gets its own folder."""
    from ..engine.config_checks.signatures import signature_of

    evaluators = evaluators_of(cfg)
    arguments = [signature_of(_class_of(metric)).arguments for metric in evaluators]
    writers = [pair for pair in zip(evaluators, arguments, strict=True) if 'output_dir' in pair[1]]
    if not writers:
        names = ', '.join(map(type_name, evaluators))
        raise ValueError(
            f'--out: no evaluator of this config writes predictions ({names}); IoUMetric does, add '
            "dict(type='IoUMetric', iou_metrics=['mIoU']) to test_evaluator"
        )
    for number, (metric, names) in enumerate(writers):
        metric.output_dir = folder if len(writers) == 1 else osp.join(folder, f'{number}_{type_name(metric)}')
        if 'keep_results' in names:
            metric.keep_results = True


def _class_of(metric: Config) -> Callable:
    from mmseg.registry import METRICS

    found = METRICS.get(metric.type) if isinstance(metric.type, str) else metric.type
    if found is None:
        raise ValueError(f'test_evaluator: no metric of the name {metric.type!r} is registered')
    return found


def leave_out_labels(cfg: Config) -> bool:
    """Load no labels for data sets whose data_prefix names no folder of them; whether there is such a one."""
    from ..datasets.leaves import leaf_configs

    found = False
    dataset = (cfg.get('test_dataloader') or {}).get('dataset')
    for leaf in leaf_configs(dataset) if dataset else ():
        prefix = leaf.get('data_prefix')
        if isinstance(prefix, Mapping) and 'img_path' in prefix and prefix.get('seg_map_path') is None:
            prefix.pop('seg_map_path', None)
            found = True
            if leaf.get('pipeline'):
                leaf.pipeline = _without_labels(leaf.pipeline)
    return found


def _without_labels(steps: Sequence) -> list:
    """A pipeline, or the lists of transforms in one, without what loads labels."""
    from mmseg.registry import TRANSFORMS

    from ..datasets.leaves import loads_labels

    kept = []
    for step in steps:
        if isinstance(step, (list, tuple)):
            inside = _without_labels(step)
            kept += [inside] * bool(inside)
        elif isinstance(step, Mapping) and 'type' in step:
            kind = TRANSFORMS.get(step['type']) if isinstance(step['type'], str) else step['type']
            if kind is not None and loads_labels(kind):
                continue
            if 'transforms' in step:
                step = type(step)(step, transforms=_without_labels(step['transforms']))
            kept.append(step)
        else:
            kept.append(step)
    return kept


def use_writing_metric(cfg: Config) -> None:
    """Put WritingIoUMetric in the place of mmseg's IoUMetric, which writes images of one name over each other."""
    for metric in evaluators_of(cfg):
        if type_name(metric) == 'IoUMetric':
            metric.type = 'WritingIoUMetric'

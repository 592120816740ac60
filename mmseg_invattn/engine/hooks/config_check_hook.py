"""Checks before the first iteration that the parts of a config fit together."""

from __future__ import annotations

import time
from functools import partial

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.evaluation import IoUMetric
from mmseg.registry import HOOKS

from ...datasets.check_hook import built_loops
from ...datasets.leaves import leaf_datasets
from ...wording import counted
from ..config_checks.classes import check_classes
from ..config_checks.loaders import check_batch_time
from ..config_checks.metrics import check_metrics, check_save_best
from ..config_checks.model import check_model
from ..config_checks.sample import check_sample
from ..config_checks.schedule import remarks
from ..config_checks.tree import ConfigError
from ..matching import unwrapped
from ..means import tell_means
from ..sharding import is_sharded


@HOOKS.register_module()
class ConfigCheckHook(Hook):
    """Compare the classes of data, loaders, metrics and heads, load a sample of each split, and run the model once.

    It also makes ``IoUMetric`` tell over how many classes its means are taken.

    The hook acts when a Runner starts, before weights are loaded, and takes about as long as one image. It changes no
    weights, no statistics and no random state. :func:`~mmseg_invattn.engine.launch.build_runner` adds it unless the
    config does.
    """

    priority = 'LOW'  # after DatasetCheckHook, which makes loading strict

    def before_run(self, runner: Runner) -> None:
        """Check the parts that the Runner has built.

        Raises:
            ConfigError: There is a mistake; the message names the first one.
        """
        model = unwrapped(runner.model)
        built = built_loops(runner)
        datasets = {split: loop.dataloader.dataset for split, loop in built.items()}
        for split, loop in built.items():
            if len(loop.dataloader) == 0:
                raise ConfigError(
                    f'{split}_dataloader gives no batch: its data set has {counted(len(datasets[split]), "image")}, '
                    f'batch_size is {loop.dataloader.batch_size} and drop_last leaves out what is less: lower '
                    'batch_size'
                )
        evaluators = {split: getattr(loop, 'evaluator', None) for split, loop in built.items()}
        check_classes(model, datasets, evaluators)
        check_metrics(evaluators)
        for evaluator in evaluators.values():
            for metric in getattr(evaluator, 'metrics', ()):
                if isinstance(metric, IoUMetric):
                    tell_means(metric)
        check_save_best(runner.hooks, evaluators.get('val'))
        size = None
        for split, dataset in datasets.items():
            load = partial(check_sample, dataset, split, runner.cfg, getattr(model, 'data_preprocessor', None))
            leaves, start = max(len(list(leaf_datasets(dataset))), 1), time.perf_counter()
            size = load() or size
            slow = check_batch_time(
                built[split].dataloader, f'{split}_dataloader', load, (time.perf_counter() - start) / leaves
            )
            if slow:
                runner.logger.warning(slow)
        if not is_sharded(model):
            check_model(model, size)
        if 'train' in built:
            for remark in remarks(runner.cfg):
                runner.logger.warning(remark)

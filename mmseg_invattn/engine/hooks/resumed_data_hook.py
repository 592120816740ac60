"""Lets a resumed training go on with the next data, without loading those again that it has seen."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ...compat import skip_trained_data


@HOOKS.register_module()
class ResumedDataHook(Hook):
    """Let the sampler skip the samples of past iterations, which MMEngine would load again and discard.

    :func:`~mmseg_invattn.engine.launch.build_runner` adds it.
    """

    def before_train(self, runner: Runner) -> None:
        """Move the sampler to the iteration from which the training goes on."""
        skip_trained_data(runner.train_loop)

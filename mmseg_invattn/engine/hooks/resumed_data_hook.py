"""A resumed training goes on with the data behind those that it has seen, without loading these again."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ...compat import skip_trained_data


@HOOKS.register_module()
class ResumedDataHook(Hook):
    """Let the sampler skip what an interrupted run has trained on, where MMEngine would load it and throw it away.

    :func:`~mmseg_invattn.engine.launch.build_runner` adds it.
    """

    def before_train(self, runner: Runner) -> None:
        """Move the sampler to the iteration from which the training goes on."""
        skip_trained_data(runner.train_loop)

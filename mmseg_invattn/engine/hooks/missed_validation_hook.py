"""Makes up a validation that a killed run has missed."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmseg.registry import HOOKS

from ..progress import VALIDATED, validation_due


@HOOKS.register_module()
class MissedValidationHook(Hook):
    """Validate before a resumed training goes on, if a validation was due at its checkpoint and is not noted in it.

    A checkpoint is written before the validation of its iteration, and the run may be killed between the two. With this
    hook the metrics and the best checkpoint are nevertheless those of an uninterrupted run.
    """

    priority = 'VERY_HIGH'  # notes it before the checkpoint hook writes, and makes it up before hooks begin an epoch

    def __init__(self) -> None:
        self._resumed = False

    def before_train(self, runner: Runner) -> None:
        """Note whether the run was resumed."""
        self._resumed = runner.iter > 0 or runner.epoch > 0

    def before_train_epoch(self, runner: Runner) -> None:
        """Make up the validation before the first iteration."""
        self._make_up(runner)

    def after_train(self, runner: Runner) -> None:
        """Make up the validation if all epochs are done."""
        self._make_up(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Note the validation for the checkpoint."""
        runner.message_hub.update_info(VALIDATED, runner.iter)

    def _make_up(self, runner: Runner) -> None:
        if not self._resumed:
            return
        self._resumed = False
        loop: Any = runner.train_loop
        if runner.val_loop is None or not hasattr(loop, 'val_interval'):
            return
        if runner.message_hub.runtime_info.get(VALIDATED) == runner.iter:
            return
        if hasattr(loop, '_decide_current_val_interval'):
            loop._decide_current_val_interval()
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        at, end = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
        if validation_due(at, end, loop.val_begin, loop.val_interval):
            what = 'epoch' if by_epoch else 'iteration'
            runner.logger.info(f'The run was ended before the validation of {what} {at}, which is made up now.')
            runner.val_loop.run()

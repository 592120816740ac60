"""Derives the normalised weights of blocks once for a whole validation or test."""

from __future__ import annotations

from contextlib import ExitStack, suppress

from mmengine.hooks import Hook
from mmseg.registry import HOOKS
from torch import nn

from ...layers import constant_weights
from ..sharding import is_sharded


class _BrokenOffError(Exception):
    """Passed to the context as the error that ended an evaluation before its last image."""


@HOOKS.register_module()
class ConstantWeightsHook(Hook):
    """Enter :func:`~mmseg_invattn.layers.constant_weights` from the first to the last image of a validation or test.

    No weight changes in between, because hooks that swap weights for an evaluation, such as EMAHook, do so before and
    after it. Sharded models are not handled, because their weights are whole only during a forward pass. If an
    evaluation was aborted, its derived weights are discarded when the runner runs again.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._inside = ExitStack()

    def before_run(self, runner) -> None:
        """Discard the derived weights of an aborted evaluation."""
        self._forget()

    def before_val_iter(self, runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Enter at the first batch."""
        self._enter(runner.model, batch_idx)

    def after_val_iter(self, runner, batch_idx: int, data_batch: dict | None = None, outputs=None) -> None:
        """Leave after the last."""
        self._leave(batch_idx, len(runner.val_dataloader))

    def before_test_iter(self, runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Enter at the first batch."""
        self._enter(runner.model, batch_idx)

    def after_test_iter(self, runner, batch_idx: int, data_batch: dict | None = None, outputs=None) -> None:
        """Leave after the last."""
        self._leave(batch_idx, len(runner.test_dataloader))

    def _enter(self, model: nn.Module, batch_idx: int) -> None:
        if batch_idx == 0:
            self._forget()
            if not is_sharded(model):
                self._inside.enter_context(constant_weights(model))

    def _forget(self) -> None:
        # leave the context as the exception that ended the evaluation would have: weights may have changed since
        with suppress(_BrokenOffError), self._inside:
            raise _BrokenOffError

    def _leave(self, batch_idx: int, batches: int) -> None:
        if batch_idx == batches - 1:
            self._inside.close()

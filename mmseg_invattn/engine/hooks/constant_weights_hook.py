"""Weights are derived once for a whole validation or test."""

from __future__ import annotations

from contextlib import ExitStack, suppress

from mmengine.hooks import Hook
from mmseg.registry import HOOKS
from torch import nn

from ...layers import constant_weights
from ..sharding import is_sharded


class _BrokenOffError(Exception):
    """An evaluation ended before its last image."""


@HOOKS.register_module()
class ConstantWeightsHook(Hook):
    """Enter :func:`~mmseg_invattn.layers.constant_weights` from the first to the last image of a validation or test.

    Between them no weight changes: what swaps weights for an evaluation (averages of them) does so before and after. A
    sharded model is left alone, since its weights are whole during a forward pass only. What an evaluation that was
    broken off leaves behind is forgotten when the runner runs again.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._inside = ExitStack()

    def before_run(self, runner) -> None:
        """Forget an evaluation that was broken off."""
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
        # as the exception that broke it off would have left the context: weights may have changed since
        with suppress(_BrokenOffError), self._inside:
            raise _BrokenOffError

    def _leave(self, batch_idx: int, batches: int) -> None:
        if batch_idx == batches - 1:
            self._inside.close()

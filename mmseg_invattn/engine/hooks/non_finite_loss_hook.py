"""Stops a training at the first loss that is NaN or infinite, and warns of a loss that grows too large."""

from __future__ import annotations

import math

import torch
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

START = 10  # the largest loss of this many first iterations is the loss at the start
LASTING = 5  # warn only if the loss is large in this many iterations in a row, because a single batch may be hard
AWAY = 10  # warn above this many times the loss at the start
AGAIN = 1000  # warn again above this many times the loss of the last warning
SMALL = 0.1  # smallest loss at the start that is assumed


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Raise as soon as a loss term is not finite, and warn if the loss stays above ten times that of the start.

    It runs before the checkpoint hook, so that the last checkpoint is from before the failure.
    """

    priority = 'ABOVE_NORMAL'

    def __init__(self) -> None:
        self._warned = -math.inf  # the loss that the last warning was about

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Check the loss terms of the iteration.

        Raises:
            FloatingPointError: If one is NaN or infinite. The message names the iteration, the terms and the files of
                the batch.
        """
        losses = {
            name: float(torch.as_tensor(value).detach()) for name, value in (outputs or {}).items() if 'loss' in name
        }
        if all(math.isfinite(value) for value in losses.values()):
            self._warn_of_divergence(runner)
            return
        terms = ', '.join(f'{name}={value}' for name, value in losses.items())
        samples = data_batch.get('data_samples', []) if isinstance(data_batch, dict) else []
        files = [getattr(sample, 'img_path', None) or '(a sample without img_path)' for sample in samples]
        raise FloatingPointError(
            f'the loss of iteration {runner.iter + 1} is not finite: {terms}. Files of the batch: '
            f'{", ".join(files) or "unknown"}. Look at these images and labels, or lower the learning rate or clip '
            'the gradients; the last checkpoint in the work directory is from before this iteration, and --resume '
            'continues from it.'
        )

    def _warn_of_divergence(self, runner) -> None:
        """Compare the last losses with the first ones, which MMEngine's message hub keeps over a resume."""
        history = runner.message_hub.log_scalars.get('train/loss')
        losses = history.data[0] if history is not None else ()
        if len(losses) <= LASTING:
            return
        start = float(max(losses[: min(START, len(losses) - LASTING)]))
        now = float(min(losses[-LASTING:]))
        limit = start + (AWAY - 1) * max(abs(start), SMALL)
        if now > limit and now > AGAIN * self._warned:
            self._warned = now
            runner.logger.warning(
                f'The training diverges: the loss has been {now:.4g} or more in the last {LASTING} iterations (now is '
                f'iteration {runner.iter + 1}), and it was {start:.4g} at the start. Lower the learning rate, warm it '
                'up, or clip the gradients, and start again, or go on from a checkpoint from before.'
            )

"""Stop at the first loss that is NaN or infinite, and say which files were in the batch."""

from __future__ import annotations

import math

import torch
from mmengine.hooks import Hook
from mmseg.registry import HOOKS


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Raise as soon as a loss term is not finite.

    It runs before the checkpoint hook, so that the last good checkpoint stays the last one.
    """

    priority = 'ABOVE_NORMAL'

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Check the loss terms of the iteration.

        Raises:
            FloatingPointError: If one is NaN or infinite; names the iteration, the terms and the batch's files.
        """
        losses = {
            name: float(torch.as_tensor(value).detach()) for name, value in (outputs or {}).items() if 'loss' in name
        }
        if all(math.isfinite(value) for value in losses.values()):
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

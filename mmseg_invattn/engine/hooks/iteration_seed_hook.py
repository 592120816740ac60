"""Randomness inside the model (dropout, sampling) as a function of seed, iteration and rank."""

from __future__ import annotations

import random

import numpy as np
import torch
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

from ...datasets.samplers import derive_seed


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seed the generators of this process before every training iteration.

    The dropout of iteration ``i`` then does not depend on anything before it, such as a validation, a resume, or the
    number of data loading workers. Each rank draws other numbers.
    """

    priority = 'VERY_LOW'  # last before the forward pass, so that no other hook draws in between

    def before_train_iter(self, runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Seed ``random``, ``numpy``, torch's CPU generator and that of the current GPU."""
        seed = derive_seed(runner.seed, runner.iter, runner.rank)
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_available():
            torch.cuda.manual_seed(seed)

"""Refuse a checkpoint of another model before it is evaluated."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmseg.registry import HOOKS

from ..matching import load_weights


@HOOKS.register_module()
class MatchingCheckpointHook(Hook):
    """Stop where the checkpoint that a Runner loads has other weights than the model.

    For evaluation; training may well start from the weights of something else.
    """

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Check the checkpoint.

        Raises:
            CheckpointMismatchError: Names or shapes differ.
        """
        load_weights(runner.model, checkpoint, str(runner._load_from))

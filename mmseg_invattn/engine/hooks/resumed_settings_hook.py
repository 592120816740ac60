"""Applies settings that were changed for a resumed run, which the state in its checkpoint would override."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ..resumed_settings import apply_changes, sentence


@HOOKS.register_module()
class ResumedSettingsHook(Hook):
    """Apply changed settings of optimisers, schedulers and model on ``--resume``, and log the old and new values."""

    priority = 'HIGH'  # after the check that the checkpoint belongs to the run, and before its state is restored

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Change the state that is about to be restored.

        Raises:
            ResumedSettingError: A change cannot be applied.
        """
        if not runner._resume or 'optimizer' not in checkpoint:
            return
        name = str(runner._load_from or 'the checkpoint')
        changed = apply_changes(runner, checkpoint, name)
        if changed:
            runner.logger.warning(sentence(changed, name))

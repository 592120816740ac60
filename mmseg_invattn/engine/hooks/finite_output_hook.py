"""Stop a validation or a test at the first output that is NaN or infinite."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmseg.registry import HOOKS
from torch.utils.hooks import RemovableHandle

from ..finite_outputs import watch_outputs
from ..matching import unwrapped


@HOOKS.register_module()
class FiniteOutputHook(Hook):
    """Check the outputs of the model for every image, also with sliding windows and test-time augmentation.

    :func:`~mmseg_invattn.engine.launch.build_runner` adds it unless the config does.

    Raises:
        NonFiniteOutputError: During an evaluation; the message names the tensor and the image.
    """

    priority = 'LOWEST'  # after ConfigCheckHook, which runs the model before it has weights

    def __init__(self) -> None:
        self._watched: RemovableHandle | None = None

    def before_run(self, runner) -> None:
        """Start to check the outputs of the model inside its wrappers."""
        if self._watched is None:
            self._watched = watch_outputs(unwrapped(runner.model))

    def after_run(self, runner) -> None:
        """Stop checking."""
        if self._watched is not None:
            self._watched.remove()
            self._watched = None

"""On SIGTERM and SIGUSR1, such as for a preempted job, ends all ranks at one iteration after writing a checkpoint."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmseg.registry import HOOKS
from torch import distributed as torch_dist

from ...stop_request import Terminated, stop_request


@HOOKS.register_module()
class StopHook(Hook):
    """Stop after the current iteration if this process or any rank has a
    :class:`~mmseg_invattn.stop_request.StopRequest`.

    Ranks tell each other by a reduction on the CPU that runs during the next iteration, so that no GPU has to wait. All
    of them stop one iteration after the first rank that got the signal. With gradient accumulation the run stops after
    a whole step. In a validation it stops after the current image, and the resumed run validates again. MMEngine's loop
    over epochs can resume only at the end of an epoch, so there a signal ends the run at once, without a checkpoint.
    """

    priority = 'LOWEST'  # after all other hooks of the iteration: schedulers have stepped, its checkpoint is written

    def __init__(self) -> None:
        self._group = None
        self._told: tuple[torch.Tensor, Any] | None = None
        self._shared_batches = 0
        self._whole = False

    def before_train(self, runner: Runner) -> None:
        """From now on, signals take effect at the end of an iteration."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop) or _checkpoint_hook(runner) is None:
            return
        if runner.world_size > 1 and self._group is None:
            self._group = torch_dist.new_group(backend='gloo')
            self._reduced(
                0, torch_dist.ReduceOp.MAX
            )  # connect now, because the launcher may have ended when it is needed
        self._whole = True
        stop_request.arm()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Note that an iteration has begun."""
        self._whole = False

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Stop if all ranks know of the request.

        Raises:
            Terminated: The checkpoint is written.
        """
        self._whole = True
        if (runner.iter + 1) % getattr(runner.optim_wrapper, '_accumulative_counts', 1) == 0 and self._agreed():
            self._stop(runner, runner.iter + 1)

    def before_val_epoch(self, runner: Runner) -> None:
        """Agree on the number of images that all ranks have, because some may have one more."""
        self._shared_batches = len(runner.val_dataloader)
        if self._group is not None:
            self._shared_batches = self._reduced(self._shared_batches, torch_dist.ReduceOp.MIN)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs=None) -> None:
        """Stop if all ranks know of the request.

        Raises:
            Terminated: The checkpoint is written.
        """
        if batch_idx < self._shared_batches and self._agreed():
            for hook in runner.hooks:  # which has swapped the weights for the validation
                if isinstance(hook, EMAHook):
                    hook.after_val_epoch(runner)
            self._stop(runner, runner.iter)

    def after_train(self, runner: Runner) -> None:
        """After the training, signals end the process at once again."""
        stop_request.disarm()
        if self._told is not None:
            self._told[1].wait()
            self._told = None

    def stop_between_iterations(self, runner: Runner) -> None:
        """Write the checkpoint if a run that was asked to stop has ended for another reason, such as ended workers.

        Raises:
            Terminated: The checkpoint is written. If the run ended within an iteration, nothing is raised.
        """
        if self._whole and stop_request.number is not None:
            self._group = None  # other ranks may have ended
            self._stop(runner, runner.iter)

    def _stop(self, runner: Runner, step: int) -> None:
        hook: Any = _checkpoint_hook(runner)
        path = hook.file_backend.join_path(hook.out_dir, hook.filename_tmpl.format(step))
        if step > 0 and hook.last_ckpt != path:  # before the first iteration there is nothing to save
            hook._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=step))
            runner.logger.info(f'Asked to stop: the checkpoint of iteration {step} is written.')
        if self._group is not None:
            with suppress(RuntimeError):  # another rank may not have waited while the first one wrote
                self._reduced(0, torch_dist.ReduceOp.MAX)
        raise Terminated(stop_request.number or Terminated().number)

    def _agreed(self) -> bool:
        """Whether all ranks know that one was asked to stop; of several ranks, at the iteration before this one."""
        wanted = stop_request.number is not None
        if self._group is None:
            return wanted
        told, self._told = self._told, None
        flag = torch.tensor([int(wanted)], dtype=torch.int32)
        work = torch_dist.all_reduce(flag, torch_dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._told = (flag, work)
        if told is None:
            return False
        told[1].wait()
        return bool(told[0])

    def _reduced(self, number: int, operation: Any) -> int:
        tensor = torch.tensor([number], dtype=torch.int32)
        torch_dist.all_reduce(tensor, operation, group=self._group)
        return int(tensor)


def _checkpoint_hook(runner: Runner) -> CheckpointHook | None:
    return next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)

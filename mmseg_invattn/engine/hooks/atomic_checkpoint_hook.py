"""Writes checkpoints that a crash cannot spoil and that load without unpickling anything."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmseg.registry import HOOKS

from ...wording import counted
from ..atomic_backend import AtomicLocalBackend, remove_partial_files
from ..plain_state import plain_message_hub, restore_message_hub, to_plain
from ..progress import OUTDATED

SAFE = 'and go on with --resume'


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, with the same arguments, made safe.

    - Files, including ``last_checkpoint``, are written whole or not at all. The next start removes the temporary files
      of a killed run.
    - The oldest checkpoint and the previous best one are deleted only after the new one is written.
    - Everything in them loads with ``torch.load(weights_only=True)``, optimiser and message hub included.
    - Weights that are not finite are not written.

    A remote ``out_dir``, or ``backend_args`` in the config, use their own backend, which need not write whole files.
    """

    _saved_step: int | None = None  # step of the last written checkpoint
    _saved_again = False  # whether this validation has written that checkpoint again
    _previous_best: dict = {}  # best checkpoints to delete, while a new best one is saved

    def before_train(self, runner) -> None:
        """Choose the atomic backend, and remove partly written files of a killed run."""
        local = '://' not in str(self.out_dir or runner.work_dir)
        self._atomic = local and self.file_client_args is None and self.backend_args is None
        if self._atomic:
            self.backend_args = dict(backend='atomic_local')
        super().before_train(runner)
        if not self._atomic:
            return
        if is_main_process():
            for folder in {self.out_dir, runner.work_dir}:
                for name in remove_partial_files(folder):
                    runner.logger.info(f'Removed {name}, which an interrupted run has left partly written in {folder}.')
        self._take_over(runner)

    def _take_over(self, runner) -> None:
        """On a resume, find the checkpoint of this step, and former best ones that a killed run did not delete."""
        self._saved_step, step = None, runner.epoch if self.by_epoch else runner.iter
        path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))
        if step > 0 and self.file_backend.exists(path):
            self.last_ckpt, self._saved_step = path, step
        if not self.save_best:
            return
        for key, path in self._best_paths().items():  # the folder may have been moved
            here = path and self.file_backend.join_path(self.out_dir, osp.basename(path))
            if path and not self.file_backend.exists(path) and self.file_backend.exists(here):
                self._set_best_paths({key: here})
        if is_main_process():
            for path in set(runner.message_hub.runtime_info.get(OUTDATED, ())) - set(self._best_paths().values()):
                self._remove(path)

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        """Save the best checkpoint, and write that of this step again to include the metrics of its validation."""
        step = runner.epoch if self.by_epoch else runner.iter
        self._saved_again = False
        super().after_val_epoch(runner, metrics)
        if self._saved_step == step and not self._saved_again:
            self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter))

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Refuse weights that are not finite and make everything plain.

        Raises:
            FloatingPointError: If a parameter is not finite or a buffer is NaN; the message names the first one.
            TypeError: If another hook has put a value without a plain form into the checkpoint.
        """
        self._check_finite(runner, checkpoint['state_dict'])
        checkpoint['message_hub'], left_out = plain_message_hub(checkpoint['message_hub'])
        for key in left_out:
            runner.logger.warning(
                f"message_hub['runtime_info'][{key!r}] is left out of the checkpoint: "
                'it has no plain form that would load with weights_only=True.'
            )
        for key, value in checkpoint.items():
            checkpoint[key] = to_plain(value, f'checkpoint[{key!r}]')

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Give ``Runner.resume`` the message hub in MMEngine's own form."""
        if 'message_hub' in checkpoint:
            checkpoint['message_hub'] = restore_message_hub(checkpoint['message_hub'])

    @staticmethod
    def _check_finite(runner, state_dict: dict) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        parameters = {name for name, _ in model.named_parameters()}
        for name, tensor in state_dict.items():
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                continue
            # a buffer, such as an attention mask, may hold -inf on purpose
            bad = ~torch.isfinite(tensor) if name in parameters else torch.isnan(tensor)
            if bad.any():
                raise FloatingPointError(
                    f'{name} has {counted(int(bad.sum()), "value")} not finite at iteration {runner.iter + 1}: the '
                    'checkpoint is not written, and the last good one is kept. Lower the learning rate or clip the '
                    'gradients, and continue with --resume.'
                )

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        """Save, then point ``last_checkpoint`` to it, then delete the oldest (MMEngine deletes first)."""
        outdated = []
        if self.max_keep_ckpts > 0 and (not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step):
            ids = [*self.keep_ckpt_ids, step]
            outdated = ids[: -self.max_keep_ckpts]
            # The checkpoint still lists the outdated ones. If the run is killed before it deletes them, the resumed run
            # finds more than it may keep, and deletes them.
            runner.message_hub.update_info('keep_ckpt_ids', ids)
            self.keep_ckpt_ids.append(step)
        if self._previous_best:  # the new best one is written; a run killed now deletes the old one on resume
            current = self._best_paths()
            replaced = {old for key, old in self._previous_best.items() if old and current.get(key) not in (None, old)}
            runner.message_hub.update_info(OUTDATED, sorted(replaced))
        filename, before = self.filename_tmpl.format(step), self.last_ckpt
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        with _saying_what_is_safe(before):
            runner.save_checkpoint(
                self.out_dir,
                filename,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
        self._saved_step, self._saved_again = step, True
        if not is_main_process():
            return
        with _saying_what_is_safe(self.last_ckpt):
            AtomicLocalBackend().put_text(self.last_ckpt, osp.join(runner.work_dir, 'last_checkpoint'))
        for old in outdated:
            self._remove(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old)))

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        """Save the new best checkpoint, then delete the previous one (MMEngine deletes first)."""
        if not self.save_best:
            return
        previous = self._best_paths()
        self._previous_best = previous
        self._set_best_paths(dict.fromkeys(previous))  # MMEngine deletes only a previous best that it knows of
        try:
            with _saying_what_is_safe(self.last_ckpt):
                super()._save_best_checkpoint(runner, metrics)
        finally:
            self._previous_best = {}
            current = self._best_paths()
            kept = {key: current.get(key) or path for key, path in previous.items()}
            self._set_best_paths({**current, **kept})
        if is_main_process():
            for path in set(previous.values()) - set(self._best_paths().values()) - {None}:
                self._remove(path)
                runner.logger.info(f'The previous best checkpoint {path} is removed')

    def _best_paths(self) -> dict:
        if len(self.key_indicators) == 1:
            return {'': self.best_ckpt_path}
        return dict(self.best_ckpt_path_dict)

    def _set_best_paths(self, paths: dict) -> None:
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = paths['']
        else:
            self.best_ckpt_path_dict.update(paths)

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # DeepSpeed saves folders
            self.file_backend.rmtree(path)


@contextmanager
def _saying_what_is_safe(path: str | None) -> Iterator[None]:
    """Add the last whole checkpoint to the error about one that cannot be written."""
    try:
        yield
    except OSError as error:
        said = error.strerror or str(error)
        if SAFE in said:
            raise
        whole = f'The last whole checkpoint is {path}' if path else 'There is no checkpoint yet'
        raise OSError(error.errno, f'{said}. {whole}: remove the cause, {SAFE}') from error

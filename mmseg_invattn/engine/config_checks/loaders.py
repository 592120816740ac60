"""Finds batches that a machine cannot load, because they need too many open files or too much time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from mmengine.runner import BaseLoop, Runner
from torch import multiprocessing
from torch.utils.data import DataLoader

from .kinds import LOADERS
from .tree import ConfigError

try:
    import resource
except ImportError:  # not on Windows, where tensors are shared in another way
    resource = None

PATIENCE = 600  # seconds without a batch after which a loader with workers fails
TENSORS = 2  # tensors of a sample: image and label
OTHER_FILES = 64  # files that a process has open for other reasons
TIMED_OUT = 'DataLoader timed out'  # torch's message when `timeout` has passed


def _with_workers(config: Mapping) -> Iterator[tuple[str, Mapping]]:
    for name in LOADERS:
        loader = config.get(name)
        if loader and (loader.get('num_workers') or 0) > 0:
            yield name, loader


def set_patience(config: Mapping) -> None:
    """Make loaders fail whose workers give no batch for ten minutes, unless the config sets ``timeout``.

    Torch has no timeout for a loader without workers.
    """
    for name in LOADERS:
        loader = config.get(name) or {}
        if loader.get('timeout') and not loader.get('num_workers'):
            loader['timeout'] = 0
    for _, loader in _with_workers(config):
        if loader.get('timeout') is None:
            loader['timeout'] = PATIENCE


def allow_open_files(config: Mapping) -> None:
    """Raise the limit of open files to the number that the workers of the dataloaders need, if the system allows it.

    A worker shares each tensor as an open file. It holds the files of all batches that it has prepared, and of the one
    that it hands over. At the limit it logs ``[Errno 24]`` and the training hangs.

    Raises:
        ConfigError: The hard limit is too low; the message names it, the batch size and the fix.
    """
    if resource is None or multiprocessing.get_sharing_strategy() != 'file_descriptor':
        return
    for name, loader in _with_workers(config):
        if 'default_collate' in str((loader.get('collate_fn') or {}).get('type')):
            continue  # the worker makes one tensor of the whole batch
        batch, ahead = loader.get('batch_size') or 1, (loader.get('prefetch_factor') or 2) + 1
        needed = ahead * batch * TENSORS + OTHER_FILES
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if resource.RLIM_INFINITY in (soft, hard) and soft in (resource.RLIM_INFINITY, hard) or needed <= soft:
            continue
        if hard != resource.RLIM_INFINITY and needed > hard:
            raise ConfigError(
                f'{name}.batch_size is {batch}, and each worker would hold {needed} files open: image and label of '
                f'{ahead} batches (prefetch_factor={ahead - 1}). A process may open {hard} here (ulimit -Hn). Set '
                f'batch_size to {max((hard - OTHER_FILES) // (ahead * TENSORS), 1)} or below, raise the limit to '
                f'{needed}, or set num_workers=0'
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def check_batch_time(loader: DataLoader, path: str, load: Callable[[], object], seconds: float) -> str:
    """Check that a batch takes less time than the timeout of its loader.

    Args:
        loader: The loader.
        path: Its path in the config.
        load: Function that loads a sample.
        seconds: Seconds that the first sample took. If they are too many, further samples are measured.

    Returns:
        A remark if a loader without workers, which has no timeout, takes longer; otherwise an empty string.

    Raises:
        ConfigError: A loader with workers takes longer.
    """
    batch, patience = loader.batch_size or 1, loader.timeout or PATIENCE
    for _ in range(2):
        if seconds * batch <= patience:
            return ''
        start = time.perf_counter()
        load()
        seconds = min(seconds, time.perf_counter() - start)
    if seconds * batch <= patience:
        return ''
    text = (
        f'{path}.batch_size is {batch} and a sample takes {seconds:.2g} s to load, so that a worker needs '
        f'{seconds * batch / 60:,.0f} minutes for a batch'
    )
    if loader.num_workers == 0:
        return f'{text}. Lower batch_size, or set num_workers to load batches side by side'
    raise ConfigError(
        f'{text}, but the loader fails after {patience:,.0f} s without a batch ({path}.timeout). Lower batch_size, or '
        'set timeout to more seconds'
    )


@contextmanager
def patience_explained(runner: Runner) -> Iterator[None]:
    """Replace torch's error that a loader has timed out by one that names the loader.

    Raises:
        ConfigError: In place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(TIMED_OUT):
            raise
        name, loader = _waited_for(runner, error)
        raise ConfigError(
            f'{name} gave no batch for {loader.timeout:,.0f} s ({name}.timeout), with batch_size={loader.batch_size} '
            f'and num_workers={loader.num_workers}. Look for messages of its workers above, and check that the disk '
            'with the data responds; then lower batch_size or num_workers, or set timeout to more seconds'
        ) from error


def _waited_for(runner: Runner, error: BaseException) -> tuple[str, DataLoader]:
    """Name and loader of the innermost loop in which an error was raised."""
    trace, loop = error.__traceback__, None
    while trace is not None:
        inner = trace.tb_frame.f_locals.get('self')
        loop = inner if isinstance(inner, BaseLoop) else loop
        trace = trace.tb_next
    split = next((s for s in ('train', 'val', 'test') if getattr(runner, f'_{s}_loop', None) is loop), 'train')
    return f'{split}_dataloader', (loop or runner.train_loop).dataloader

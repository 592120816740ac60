"""Locks the folders of a run for the process that writes into them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mmengine.config import Config

from ..compat import RANKS
from .folder_lock import locked
from .resume import checkpoint_folder


def _rank_of(launcher: str) -> int:
    """The number of this process as the launcher has set it."""
    return int(os.environ.get(RANKS[launcher][0], '0'))


@contextmanager
def folders_of_run(cfg: Config, name: str = '--work-dir') -> Iterator[None]:
    """Lock the folders of a run for this process, or for the first process of a distributed run.

    Args:
        cfg: Config of the run, as :func:`~mmseg_invattn.cli.arguments.load_config` returns it.
        name: Name of the option that chooses the folder.

    Raises:
        FolderInUseError: Another process works there.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint')
    work_dir, out = Path(cfg.work_dir).absolute(), (hook or {}).get('out_dir')
    with ExitStack() as stack:
        if cfg.launcher == 'none' or _rank_of(cfg.launcher) == 0:
            stack.enter_context(locked(work_dir, name))
            if out and '://' not in str(out) and checkpoint_folder(work_dir, hook) != work_dir:
                stack.enter_context(locked(checkpoint_folder(work_dir, hook), 'out_dir'))
        yield

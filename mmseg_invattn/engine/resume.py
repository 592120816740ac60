"""Finds the checkpoint from which ``--resume`` continues: the last whole one."""

from __future__ import annotations

import logging
import os.path as osp
import re
from pathlib import Path

from mmengine.logging import print_log

from .checkpoints import DamagedCheckpointError, read_checkpoint


def find_resume_checkpoint(work_dir: str | Path, hook: dict | None = None, trust: bool = False) -> str | None:
    """Find the checkpoint to resume from.

    It is the one that ``last_checkpoint`` names. If that file is missing or empty, or names a checkpoint that is
    missing or damaged, it is the newest whole checkpoint, and the log says so.

    Args:
        work_dir: The work directory of the run.
        hook: The config of the checkpoint hook, for its ``out_dir`` and ``filename_tmpl``.
        trust: Accept checkpoints that need unpickling.

    Returns:
        The path, or None if there is no checkpoint at all.

    Raises:
        DamagedCheckpointError: If there are checkpoints, but none of them can be read.
        UnsafeCheckpointError: If the checkpoint needs unpickling and is not trusted.
    """
    work_dir = Path(work_dir).absolute()
    folder = checkpoint_folder(work_dir, hook)
    failures = []
    recorded = _recorded_checkpoint(work_dir, folder)
    if recorded is not None:
        if '://' in recorded:  # a remote one: MMEngine fetches it
            return recorded
        failure = _why_unusable(recorded, trust)
        if failure is None:
            return recorded
        failures.append(failure)
    for path in checkpoints_of_run(work_dir, hook):
        if path == recorded:
            continue
        failure = _why_unusable(path, trust)
        if failure is None:
            reason = failures[0] if failures else f'{work_dir / "last_checkpoint"} names no checkpoint'
            print_log(
                f'{reason}. Resuming from the newest whole checkpoint instead: {path}', 'current', logging.WARNING
            )
            return path
        failures.append(failure)
    if failures:
        raise DamagedCheckpointError(
            f'--resume: no checkpoint in {folder} can be read: {"; ".join(failures)}. Put a whole checkpoint there, '
            'or start again without --resume'
        )
    return None


def _recorded_checkpoint(work_dir: Path, folder: Path) -> str | None:
    """Read ``last_checkpoint``. If its path does not exist, look in the work directory, which may have been moved."""
    record = work_dir / 'last_checkpoint'
    name = record.read_text(errors='replace').strip() if record.is_file() else ''
    if not name:
        return None
    moved = folder / osp.basename(name)
    return str(moved) if not osp.exists(name) and moved.is_file() else name


def checkpoint_folder(work_dir: Path, hook: dict | None) -> Path:
    """The folder into which the checkpoint hook writes, from its config."""
    out = (hook or {}).get('out_dir')
    return Path(out) / work_dir.name if out else work_dir


def numbered_names(hook: dict | None) -> list[str]:
    """Name of the checkpoints with ``{}`` in place of the number, from the config of the checkpoint hook."""
    template = (hook or {}).get('filename_tmpl')
    return [template] if template else ['iter_{}.pth', 'epoch_{}.pth']


def checkpoints_of_run(work_dir: str | Path, hook: dict | None = None) -> list[str]:
    """List the numbered checkpoints, newest first. Age decides, because a run that started again counts from 0 again.

    Args:
        work_dir: The work directory of the run.
        hook: The config of the checkpoint hook, for its ``out_dir`` and ``filename_tmpl``.
    """
    folder = checkpoint_folder(Path(work_dir).absolute(), hook)
    names = [re.escape(name).replace(r'\{\}', r'(\d+)') for name in numbered_names(hook)]
    found = []
    for path in folder.glob('*') if folder.is_dir() else []:
        match = next(filter(None, (re.fullmatch(name, path.name) for name in names)), None)
        if match and path.is_file():
            found.append((path.stat().st_mtime_ns, int(match[1]), str(path)))
    return [path for *_, path in sorted(found, reverse=True)]


def _why_unusable(path: str, trust: bool) -> str | None:
    try:
        checkpoint = read_checkpoint(path, 'cpu', trust, mmap=True)
    except (FileNotFoundError, DamagedCheckpointError) as error:
        return str(error)
    if not isinstance(checkpoint, dict):
        return f'{path}: it holds a {type(checkpoint).__name__}, but not the state of a run'
    missing = {'meta', 'state_dict', 'message_hub'} - set(checkpoint)
    return f'{path}: it lacks {", ".join(sorted(missing))}, so no run can continue from it' if missing else None

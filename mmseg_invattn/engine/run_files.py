"""Lists the files that a training leaves in its folders, so that another training does not mix with them."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .resume import checkpoint_folder, numbered_names

# MMEngine makes a folder of this name for the logs of every start
NAMED, STARTED = '%Y%m%d_%H%M%S', re.compile(r'\d{8}_\d{6}')


def weights_of_run(work_dir: str | Path, hook: dict | None = None) -> list[Path]:
    """Checkpoints in the folders of a run: numbered, best and published ones, and ``last_checkpoint``.

    Args:
        work_dir: The work directory of the run.
        hook: The config of the checkpoint hook, for its ``out_dir`` and ``filename_tmpl``.
    """
    work_dir = Path(work_dir).absolute()
    names = [re.escape(name) for name in numbered_names(hook)]
    numbered = '|'.join(name.replace(r'\{\}', r'\d+').replace(r'\.pth', r'(-[0-9a-f]{8})?\.pth') for name in names)
    pattern = re.compile(rf'(best_.+_)?({numbered})')
    folder = checkpoint_folder(work_dir, hook)
    found = [path for path in folder.glob('*') if pattern.fullmatch(path.name)] if folder.is_dir() else []
    record = work_dir / 'last_checkpoint'
    return sorted(found) + [record] * record.is_file()


def files_of_run(work_dir: str | Path, hook: dict | None = None, config: str | None = None) -> list[Path]:
    """All files that trainings and tests have written into a folder, and no others.

    Args:
        work_dir: The work directory of the run.
        hook: The config of the checkpoint hook.
        config: File of the config that is going to be trained; the new run replaces a copy of that name.
    """
    work_dir = Path(work_dir).absolute()
    starts = [path for path in work_dir.glob('*') if STARTED.fullmatch(path.name) and path.is_dir()]
    # MMEngine puts the config into the work directory, under its own name, and among the logs
    kept = {path.read_bytes() for start in starts for path in start.glob('vis_data/config.py')}
    own = None if config is None else Path(config).name
    dumped = [path for path in work_dir.glob('*.py') if path.name != own and path.read_bytes() in kept]
    return [*weights_of_run(work_dir, hook), *starts, *dumped]


def wait_for_new_folder(paths: Sequence[Path]) -> None:
    """Wait until MMEngine, which names the folder of a start after the second, will give it none of these names.

    Otherwise the removal of an earlier run would remove the logs of a new one that starts in the same second.
    """
    names = {path.name for path in paths}
    while time.strftime(NAMED) in names:
        time.sleep(0.05)


def remove(paths: Sequence[Path]) -> None:
    """Remove files and folders, ``last_checkpoint`` first, so that nothing resumes from a partly removed run.

    Raises:
        OSError: One of them cannot be removed.
    """
    for path in sorted(paths, key=lambda path: path.name != 'last_checkpoint'):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            with suppress(FileNotFoundError):
                path.unlink()

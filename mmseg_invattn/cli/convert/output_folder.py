"""The output folder of a converter: it is complete or does not exist, and it replaces only output of converters."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..output import refuse_existing

META_FILE = 'meta.json'


def read_meta(folder: Path) -> dict | None:
    """The content of ``meta.json`` from an earlier run, or None if there is no such file.

    Raises:
        ValueError: The file is not JSON.
    """
    path = folder / META_FILE
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except json.JSONDecodeError as error:
        raise ValueError(
            f'{path} is not valid JSON ({error}). A converter wrote it, so it has been changed '
            f'since. Fix: remove {folder} and run the converter again.'
        ) from error


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raises an error if the folder exists, unless a converter wrote it and it may be replaced.

    Args:
        folder: Output folder.
        overwrite: Whether the user allows replacing it.

    Raises:
        FileExistsError: The folder exists and must not be replaced.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if read_meta(folder) is None:
        raise FileExistsError(
            f'{folder} exists and was not written by this converter (it has no {META_FILE}), so it '
            'is never replaced. Fix: choose another --out, or move the folder away.'
        )
    refuse_existing([folder], overwrite)


@contextmanager
def whole_folder(folder: Path, meta: dict, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary folder next to ``folder``, which is renamed to ``folder`` if the block ends without an error.

    An interrupted run does not change ``folder``. After ``kill -9`` a hidden folder ``.<name>.partial-*`` remains and
    can be removed.

    Args:
        folder: Output folder.
        meta: Content of ``meta.json``, which is written last.
        overwrite: Replace an earlier output.

    Raises:
        FileExistsError: As for :func:`check_folder`.
    """
    check_folder(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.partial-', dir=folder.parent))
    try:
        yield partial
        (partial / META_FILE).write_text(json.dumps(meta, indent=2) + '\n', encoding='utf-8')
        partial.chmod(0o755)  # mkdtemp sets 0o700, with which other users could not read it
        if folder.exists():
            old = partial.with_name(f'{partial.name}-old')
            os.rename(folder, old)
            os.rename(partial, folder)
            shutil.rmtree(old)
        else:
            os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

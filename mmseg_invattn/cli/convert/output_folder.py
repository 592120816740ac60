"""The folder of a converter, which appears whole or not at all, and which replaces no other's."""

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
    """What an earlier run left in ``meta.json``, or None where there is no such file.

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
            f'{path} is not valid JSON ({error}). A converter wrote it, so the folder has been changed '
            f'since. Fix: remove {folder} and run the converter again.'
        ) from error


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse to touch a folder that is there already, unless it is a converter's and may be replaced.

    Args:
        folder: Where the output shall go.
        overwrite: The user has asked for the replacement.

    Raises:
        FileExistsError: The folder is there and is not to be replaced.
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
    """Give a temporary sibling to write into; rename it to ``folder`` when the block ends without an error.

    An interrupted run leaves ``folder`` as it was. After ``kill -9`` a hidden sibling ``.<name>.partial-*`` stays
    behind and may be removed.

    Args:
        folder: Where the output shall go.
        meta: Written to ``meta.json``, last.
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
        partial.chmod(0o755)  # mkdtemp gives 0o700, which shuts out the other users of shared data
        if folder.exists():
            old = partial.with_name(f'{partial.name}-old')
            os.rename(folder, old)
            os.rename(partial, folder)
            shutil.rmtree(old)
        else:
            os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

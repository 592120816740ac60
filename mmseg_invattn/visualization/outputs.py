"""Files that are not written over unless that was asked for."""
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


def refuse_existing(files: Iterable[Path], overwrite: bool) -> None:
    """Call before the work begins.

    Raises:
        FileExistsError: One of the files is there, and is not to be replaced.
    """
    for file in files:
        if file.is_dir():
            raise FileExistsError(f'{file} is a folder, and a file of that name is to be written. Fix: choose another '
                                  '--out.')
        if file.exists() and not overwrite:
            raise FileExistsError(f'{file} exists. It is replaced only on request. Fix: add --overwrite, or choose '
                                  'another --out.')


def write_whole(file: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=f'.{file.name}.partial-', dir=file.parent)
    try:
        with os.fdopen(descriptor, 'wb') as stream:
            stream.write(content)
        os.chmod(partial, 0o644)  # mkstemp gives 0o600, which shuts out others
        os.replace(partial, file)
    except BaseException:
        os.unlink(partial)
        raise

"""Files that are either whole or absent: written beside their place, synced, then moved there."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mmengine.fileio import LocalBackend, register_backend

SUFFIX = '.partial'  # of a file that is still being written
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ADVICE = dict.fromkeys(FULL, 'Make room there, or choose another folder')
ADVICE |= dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR), 'Choose a folder that can be written')
ADVICE[errno.EIO] = 'Look at the disk'
UNWRITABLE = tuple(ADVICE)
_UMASK = threading.Lock()  # it can be read only by setting it, for all threads of the process


@register_backend('atomic_local', force=True)
class AtomicLocalBackend(LocalBackend):
    """MMEngine's local file backend with an atomic :meth:`put`.

    Registered as ``atomic_local``; ask for it by ``backend_args=dict(backend='atomic_local')``.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes so that a reader, or a crash at any moment, sees the old file or the new one, never a part.

        Args:
            obj: The contents.
            filepath: Where they go; missing folders are made.

        Raises:
            OSError: They cannot be written; names the file, its size and what is safe.
        """
        with whole_file(filepath, len(obj)) as partial, open(partial, 'wb') as file:
            _write(file, obj)
            file.flush()
            if partial.is_file():  # no device
                os.fsync(file.fileno())

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text in the same way as :meth:`put` writes bytes."""
        self.put(obj.encode(encoding), filepath)


@contextmanager
def whole_file(path: str | Path, size: int | None = None) -> Iterator[Path]:
    """A path to write to that takes the place of ``path`` at the end, or is removed where writing fails.

    Its suffix is that of ``path``. A link is followed; a device or a pipe is written as it is.

    Args:
        path: Where the file is going to be; missing folders are made.
        size: Bytes that it will have, where they are known.

    Raises:
        OSError: It cannot be written; names the file, its size and what is safe.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        with _explained(target, size):
            yield target
        return
    partial = None
    try:
        with _explained(target, size):
            target.parent.mkdir(parents=True, exist_ok=True)
            file, name = tempfile.mkstemp(dir=target.parent, prefix=f'.{target.name}.', suffix=SUFFIX + target.suffix)
            os.close(file)
            partial = Path(name)
            yield partial
            # mkstemp makes files private; what is written here gets the permissions of any other file
            with _UMASK:
                umask = os.umask(0)
                os.umask(umask)
            os.chmod(partial, 0o666 & ~umask)
            os.replace(partial, target)
    except BaseException:
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


@contextmanager
def _explained(path: Path, size: int | None) -> Iterator[None]:
    """Say of an error of the system which file it is about, how large that is, and that nothing else is harmed."""
    try:
        yield
    except OSError as error:
        number, reason = error.errno or errno.EIO, error.strerror or str(error)  # numpy's has no number
        if number not in UNWRITABLE:
            raise
        room = _free(path.parent) if number in FULL else ''
        large = '' if size is None else f' ({in_bytes(size)})'
        stays = 'what was there before is whole' if path.exists() else 'nothing of it is left behind'
        raise OSError(
            number, f'{path}{large} could not be written: {reason}{room}; {stays}. {ADVICE[number]}'
        ) from error


def _free(folder: Path) -> str:
    try:
        return f', {in_bytes(shutil.disk_usage(folder).free)} are free there'
    except OSError:
        return ''


def in_bytes(size: float) -> str:
    """A number of bytes for people."""
    for unit in ('bytes', 'KiB', 'MiB'):
        if size < 1024:
            return f'{size:.0f} {unit}' if unit == 'bytes' else f'{size:.1f} {unit}'
        size /= 1024
    return f'{size:.1f} GiB'


def _write(file: BinaryIO, obj: bytes) -> None:
    file.write(obj)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power failure; file systems that cannot sync a folder are left alone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def remove_partial_files(folder: str | Path) -> list[str]:
    """Delete what killed runs left half written.

    Args:
        folder: Where the checkpoints are.

    Returns:
        Names of the files removed.
    """
    leftovers = sorted({*Path(folder).glob(f'.*{SUFFIX}'), *Path(folder).glob(f'.*{SUFFIX}.*')})
    for path in leftovers:
        path.unlink(missing_ok=True)
    return [path.name for path in leftovers]

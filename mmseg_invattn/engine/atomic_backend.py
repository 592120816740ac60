"""Files that are either whole or absent: each is written under another name, synced, and then renamed."""

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
ADVICE[errno.EIO] = 'Check the disk'
UNWRITABLE = tuple(ADVICE)
_UMASK = threading.Lock()  # the umask can be read only by setting it, which changes it for all threads


@register_backend('atomic_local', force=True)
class AtomicLocalBackend(LocalBackend):
    """MMEngine's local file backend with an atomic :meth:`put`.

    It is registered as ``atomic_local``, for ``backend_args=dict(backend='atomic_local')``.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes so that the path always holds the old file or the new one, never a part, even after a crash.

        Args:
            obj: The contents.
            filepath: The file; missing folders are created.

        Raises:
            OSError: The file cannot be written. The message names the file, its size and what is left of it.
        """
        with whole_file(filepath, len(obj)) as partial, open(partial, 'wb') as file:
            _write(file, obj)
            file.flush()
            if partial.is_file():  # not a device, which cannot be synced
                os.fsync(file.fileno())

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text in the same way as :meth:`put` writes bytes."""
        self.put(obj.encode(encoding), filepath)


@contextmanager
def whole_file(path: str | Path, size: int | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces ``path`` at the end or is removed if writing fails.

    It has the suffix of ``path``. A link is followed; a device or a pipe is written directly.

    Args:
        path: The final path; missing folders are created.
        size: Bytes that the file will have, if known.

    Raises:
        OSError: The file cannot be written. The message names the file, its size and what is left of it.
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
            # mkstemp makes the file private, but it is to have the usual permissions
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
    """Raise an error of the system again with the name and size of the file, and what is left of it."""
    try:
        yield
    except OSError as error:
        number, reason = error.errno or errno.EIO, error.strerror or str(error)  # errors of numpy have no number
        if number not in UNWRITABLE:
            raise
        room = _free(path.parent) if number in FULL else ''
        large = '' if size is None else f' ({in_bytes(size)})'
        stays = 'the file that was there before is unchanged' if path.exists() else 'nothing of it is left behind'
        raise OSError(
            number, f'{path}{large} could not be written: {reason}{room}; {stays}. {ADVICE[number]}'
        ) from error


def _free(folder: Path) -> str:
    try:
        return f', {in_bytes(shutil.disk_usage(folder).free)} are free there'
    except OSError:
        return ''


def in_bytes(size: float) -> str:
    """A number of bytes in readable units."""
    for unit in ('bytes', 'KiB', 'MiB'):
        if size < 1024:
            return f'{size:.0f} {unit}' if unit == 'bytes' else f'{size:.1f} {unit}'
        size /= 1024
    return f'{size:.1f} GiB'


def _write(file: BinaryIO, obj: bytes) -> None:
    file.write(obj)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power failure; does nothing on file systems that cannot sync a folder."""
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
    """Delete partly written files that killed runs have left.

    Args:
        folder: Where the checkpoints are.

    Returns:
        Names of the files removed.
    """
    leftovers = sorted({*Path(folder).glob(f'.*{SUFFIX}'), *Path(folder).glob(f'.*{SUFFIX}.*')})
    for path in leftovers:
        path.unlink(missing_ok=True)
    return [path.name for path in leftovers]

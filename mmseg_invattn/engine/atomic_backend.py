"""Files that are either whole or absent: written beside their place, synced, then moved there."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path
from typing import BinaryIO

from mmengine.fileio import LocalBackend, register_backend

SUFFIX = '.partial'  # of a file that is still being written
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
        """
        target = Path(filepath)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=target.parent, prefix=f'.{target.name}.', suffix=SUFFIX, delete=False
        ) as file:
            try:
                _write(file, obj)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                os.unlink(file.name)
                raise
        # NamedTemporaryFile makes files private; a checkpoint gets the permissions of any other file
        with _UMASK:
            umask = os.umask(0)
            os.umask(umask)
        os.chmod(file.name, 0o666 & ~umask)
        os.replace(file.name, target)
        _sync_folder(target.parent)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text in the same way as :meth:`put` writes bytes."""
        self.put(obj.encode(encoding), filepath)


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
    leftovers = sorted(Path(folder).glob(f'.*{SUFFIX}'))
    for path in leftovers:
        path.unlink(missing_ok=True)
    return [path.name for path in leftovers]

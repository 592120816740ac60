"""A lock file by which only one process at a time writes runs into a folder; it never outlives its holder.

The kernel holds the lock (``flock``) and releases it however the process ends. On file systems that have no such locks,
or only among the processes of one machine, the host and the process id in the file decide, together with its age: the
holder touches the file regularly.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = '.lock'
TOUCHED_EVERY = 10.0  # seconds
WATCHED_FOR = 25.0  # seconds after which a lock of another machine that nobody touches is stale
SURELY_OLD = 600.0  # seconds: the clocks of two machines differ by less
ENDED_WITHIN = 25.0  # seconds in which the processes that a killed process has started notice its end

_HELD: set[int] = set()  # file descriptors; forked processes, such as workers of data loaders, close them


def _close_in_fork() -> None:
    for file in _HELD:
        with suppress(OSError):
            os.close(file)
    _HELD.clear()


os.register_at_fork(after_in_child=_close_in_fork)


class FolderInUseError(ValueError):
    """Another process writes into the folder."""


@contextmanager
def locked(folder: str | Path, name: str = '--work-dir') -> Iterator[int]:
    """Lock a folder for this process, and for processes that inherit the yielded file descriptor.

    Args:
        folder: The folder; it is created if it is missing.
        name: Name of the option that chooses the folder, for the message.

    Raises:
        FolderInUseError: Another process works there; the message names it.
        OSError: Nothing can be written there.
    """
    path = Path(folder) / LOCK
    _make(path.parent, name)
    file = _acquire(path, name)
    done = threading.Event()
    try:
        os.truncate(file, 0)
        os.pwrite(file, json.dumps(dict(pid=os.getpid(), host=socket.gethostname(), since=time.time())).encode(), 0)
    except OSError:  # a full disk; the kernel's lock holds all the same
        pass
    threading.Thread(target=_touch, args=(file, done), daemon=True).start()
    try:
        yield file
    finally:
        done.set()
        if file in _HELD:  # not in a fork
            _HELD.discard(file)
            os.close(file)
            _tidy_up(path)


def _make(folder: Path, name: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f'{name} {folder}: {error.strerror}; choose a folder that can be written') from error


def _acquire(path: Path, name: str) -> int:
    ended_by = time.monotonic() + ENDED_WITHIN
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            said = f'{name} {path.parent}: nothing can be written there ({error.strerror}); choose another folder'
            raise OSError(error.errno, said) from error
        try:
            busy = not _taken(file, path, name, ended_by)
            with suppress(FileNotFoundError):
                if not busy and os.path.samestat(os.fstat(file), os.stat(path)):  # the last holder may have removed it
                    _HELD.add(file)
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        if busy:
            time.sleep(0.2)


def _taken(file: int, path: Path, name: str, ended_by: float) -> bool:
    """Take the lock. False if its holder has ended but processes that it started still have to notice that.

    Raises:
        FolderInUseError: Another process holds the lock.
    """
    kept = True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _holder(file)
        ended = holder is not None and holder['host'] == socket.gethostname() and not _runs(holder['pid'])
        if ended and time.monotonic() < ended_by:
            return False
        raise _in_use(path, holder, name) from error
    except OSError:  # this file system has no locks
        kept = False
    holder = _holder(file)
    if holder is not None and _alive(holder, file, path, kept):
        raise _in_use(path, holder, name)
    return True


def _tidy_up(path: Path) -> None:
    """Remove the lock file, unless another process has taken the lock or one that has inherited it still holds it."""
    with suppress(OSError), open(path, 'rb') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:  # no locks here
            pass
        if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            path.unlink()


def _holder(file: int) -> dict | None:
    """The holder that the lock file names; None if the file is empty."""
    try:
        holder = json.loads(os.pread(file, 1000, 0) or 'null')
        return dict(pid=int(holder['pid']), host=str(holder['host']), since=float(holder['since']))
    except (ValueError, KeyError, TypeError):
        return None


def _alive(holder: dict, file: int, path: Path, kept: bool) -> bool:
    """Whether the holder still works although the kernel grants the lock; ``kept``: the kernel keeps locks here."""
    if holder['host'] == socket.gethostname():
        return not kept and holder['pid'] != os.getpid() and _runs(holder['pid'])
    before = os.fstat(file).st_mtime_ns
    if time.time() - before / 1e9 > SURELY_OLD:
        return False
    print(
        f'{path} names a process on {holder["host"]}: waiting {WATCHED_FOR:.0f} s to see whether it still works',
        flush=True,
    )
    deadline = time.monotonic() + WATCHED_FOR
    while time.monotonic() < deadline:
        time.sleep(min(1.0, WATCHED_FOR / 5))
        with suppress(FileNotFoundError):
            if os.stat(path).st_mtime_ns != before:
                return True
    return False


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _in_use(path: Path, holder: dict | None, name: str) -> FolderInUseError:
    who = 'another process'
    if holder is not None:
        since = time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(holder['since']))
        who = f'process {holder["pid"]} on {holder["host"]} since {since}'
        if holder['host'] == socket.gethostname() and not _runs(holder['pid']):
            who += ' (it has ended, but a process that it started still works)'
    return FolderInUseError(
        f'{name} {path.parent} is in use by {who}: wait for it, end it, or choose another folder. Two processes would '
        "overwrite each other's files"
    )


def _touch(file: int, done: threading.Event) -> None:
    while not done.wait(TOUCHED_EVERY):
        with suppress(OSError):
            os.utime(file)

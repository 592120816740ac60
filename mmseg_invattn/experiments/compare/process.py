"""A step of a comparison in a process of its own: what it prints goes to a log, its progress to the terminal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from ...engine.forgiving_logs import forgiven
from ...engine.launched import PARENT
from ...paths import ROOT

TAIL = 25
# MMEngine's progress in training, and the results of a validation, without the time and the logger's name before them
PROGRESS = re.compile(r'((?:Iter|Epoch)\(train\).*|(?:Iter|Epoch)\(val\).*mIoU: \S+)')


class ProcessFailedError(RuntimeError):
    """A process that ended with an error; the message says how, ``tail`` holds its last lines."""

    def __init__(self, message: str, tail: list[str]):
        super().__init__(message)
        self.tail = tail


class StoppedError(RuntimeError):
    """The comparison was stopped: the process was ended, or not begun."""


class Processes:
    """The processes at work, begun by several threads.

    An interrupt reaches the main thread alone. It ends all processes, and from then on none begins.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self.stopped = False

    def begin(self, command: Sequence[str], **options: object) -> subprocess.Popen:
        """Start a process, as ``Popen`` does it, in a session of its own.

        Raises:
            StoppedError: none begins any more.
        """
        with self._lock:
            if self.stopped:
                raise StoppedError('stopped before it began')
            process = subprocess.Popen(command, start_new_session=True, **options)
            self._running.add(process)
            return process

    def forget(self, process: subprocess.Popen) -> None:
        with self._lock:
            self._running.discard(process)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to all processes and their children."""
        with self._lock:
            self.stopped = True
            for process in self._running:
                _signal_group(process, number)


def run_process(
    command: Sequence[str],
    log: Path,
    say: Callable[[str], None],
    keep_open: Sequence[int] = (),
    settings: Mapping[str, str] | None = None,
    processes: Processes | None = None,
) -> int:
    """Run a command to its end.

    Args:
        command: the command line.
        log: what it prints is appended here.
        say: takes a line of progress.
        keep_open: file descriptors that it inherits.
        settings: environment variables that it has beside those of this process.
        processes: those that are ended together with it; None: it is the only one.

    Returns:
        Largest resident memory of the process in bytes.

    Raises:
        ProcessFailedError: it crashed, or was killed.
        StoppedError: it was ended since the comparison was.
    """
    processes = processes or Processes()
    environment = dict(os.environ, PYTHONUNBUFFERED='1', PYTHONIOENCODING='utf-8') | dict(settings or {})
    environment[PARENT] = str(os.getpid())  # a child ends when this process is killed
    environment['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), environment.get('PYTHONPATH')]))
    tail: deque[str] = deque(maxlen=TAIL)
    process = processes.begin(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding='utf-8',
        errors='replace',
        env=environment,
        pass_fds=tuple(keep_open),
    )
    try:
        with ExitStack() as stack:
            file = None
            with forgiven(str(log)):
                file = stack.enter_context(open(log, 'ab', buffering=0))
            for line in process.stdout:
                if file is not None:
                    with forgiven(str(log)):
                        file.write(line.encode())
                if line.strip():
                    tail.append(line.rstrip())
                progress = PROGRESS.search(line)
                if progress:
                    say(re.sub(r'\s+', ' ', progress[1]))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        _end_group(process)
        processes.forget(process)
    if processes.stopped:
        raise StoppedError('ended')
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        out_of_memory = ' (perhaps for lack of memory)' if name == 'SIGKILL' else ''
        raise ProcessFailedError(f'killed by {name}{out_of_memory}', list(tail))
    if process.returncode:
        raise ProcessFailedError(f'ended with exit status {process.returncode}', list(tail))
    return usage.ru_maxrss * 1024


def _end_group(process: subprocess.Popen) -> None:
    """End what is left of the process and of its children."""
    _signal_group(process, signal.SIGTERM)
    if process.returncode is None:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            _signal_group(process, signal.SIGKILL)
            process.wait()
    process.stdout.close()


def _signal_group(process: subprocess.Popen, number: int) -> None:
    # A session of its own: an interrupt of the terminal reaches this process alone, which then ends the whole group.
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass

"""Runs a step of a comparison in its own process; its output goes to a log, its progress to the terminal."""

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
    """A process ended with an error; the message tells how, and ``tail`` holds its last lines."""

    def __init__(self, message: str, tail: list[str]):
        super().__init__(message)
        self.tail = tail


class StoppedError(RuntimeError):
    """The comparison was stopped, so the process was ended, or not started."""


class Processes:
    """The running processes, which several threads start.

    An interrupt reaches only the main thread. It ends all processes, and from then on no process can start.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self.stopped = False

    def begin(self, command: Sequence[str], **options: object) -> subprocess.Popen:
        """Start a process as ``Popen`` does, in its own session.

        Raises:
            StoppedError: the comparison was stopped.
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
        say: function that is called with each line of progress.
        keep_open: file descriptors that it inherits.
        settings: environment variables of the process, in addition to those of this process.
        processes: the processes that are ended together with it; None if it is the only one.

    Returns:
        Largest resident memory of the process in bytes.

    Raises:
        ProcessFailedError: it crashed, or was killed.
        StoppedError: it was ended because the comparison was stopped.
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
    """End the process and its children, as far as they still run."""
    _signal_group(process, signal.SIGTERM)
    if process.returncode is None:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            _signal_group(process, signal.SIGKILL)
            process.wait()
    process.stdout.close()


def _signal_group(process: subprocess.Popen, number: int) -> None:
    # With its own session, an interrupt of the terminal reaches only this process, which then ends the whole group.
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass

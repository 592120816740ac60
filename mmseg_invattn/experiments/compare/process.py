"""A step of a comparison in a process of its own: what it prints goes to a log, its progress to the terminal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from ...paths import ROOT

TAIL = 25
# MMEngine's progress in training, and the results of a validation, without the time and the logger's name before them
PROGRESS = re.compile(r'((?:Iter|Epoch)\(train\).*|(?:Iter|Epoch)\(val\).*mIoU: \S+)')


class ProcessFailedError(RuntimeError):
    """A process that ended with an error; the message says how, ``tail`` holds its last lines."""

    def __init__(self, message: str, tail: list[str]):
        super().__init__(message)
        self.tail = tail


def run_process(command: Sequence[str], log: Path, say: Callable[[str], None], keep_open: Sequence[int] = ()) -> int:
    """Run a command to its end.

    Args:
        command: the command line.
        log: what it prints is appended here.
        say: takes a line of progress.
        keep_open: file descriptors that it inherits.

    Returns:
        Largest resident memory of the process in bytes.

    Raises:
        ProcessFailedError: it crashed, or was killed.
    """
    environment = dict(os.environ, PYTHONUNBUFFERED='1', PYTHONIOENCODING='utf-8')
    environment['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), environment.get('PYTHONPATH')]))
    tail: deque[str] = deque(maxlen=TAIL)
    # A session of its own: an interrupt reaches this process alone, which then ends the whole group.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding='utf-8',
        errors='replace',
        env=environment,
        start_new_session=True,
        pass_fds=tuple(keep_open),
    )
    try:
        with open(log, 'a', encoding='utf-8') as file:
            for line in process.stdout:
                file.write(line)
                file.flush()
                if line.strip():
                    tail.append(line.rstrip())
                progress = PROGRESS.search(line)
                if progress:
                    say(re.sub(r'\s+', ' ', progress[1]))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        _end_group(process)
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        out_of_memory = ' (perhaps for lack of memory)' if name == 'SIGKILL' else ''
        raise ProcessFailedError(f'killed by {name}{out_of_memory}', list(tail))
    if process.returncode:
        raise ProcessFailedError(f'ended with exit status {process.returncode}', list(tail))
    return usage.ru_maxrss * 1024


def _end_group(process: subprocess.Popen) -> None:
    """End what is left of the process and of its children."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    if process.returncode is None:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    process.stdout.close()

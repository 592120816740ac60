"""Ctrl-C, SIGTERM and SIGUSR1: a command ends with one line that says how to go on, and takes its processes along."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from ..stop_request import Terminated, stop_request

# the command that started the processes of a distributed run, which tools/dist_*.sh sets
COMMAND = 'MMSEG_INVATTN_COMMAND'
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def terminable() -> Iterator[None]:
    """Let these signals end the workers first, and then the block by ``KeyboardInterrupt``.

    A training takes SIGTERM and SIGUSR1 where its state is whole, and ends the block itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()
    stopped: list[KeyboardInterrupt] = []

    def stop(number: int, frame: object) -> None:
        if os.getpid() != process:  # a fork, which has inherited this function: it ends as if it had not
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        # torch takes the end of a worker for an error, and workers may have got the signal as well
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if number != signal.SIGINT and stop_request.note(number):
            return
        end_workers()
        stopped.append(KeyboardInterrupt() if number == signal.SIGINT else Terminated(number))
        raise stopped[0]

    def end_workers() -> None:
        for other in handled:  # a second signal must not break into the cleaning up
            signal.signal(other, signal.SIG_IGN)
        for worker in multiprocessing.active_children():  # those that find their parent gone print tracebacks
            worker.terminate()

    # a shell has background jobs ignore Ctrl-C
    handled = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in handled}
    try:
        yield
    except Terminated:
        end_workers()
        raise
    except Exception as error:
        # MMEngine takes whatever stops it while it writes a config for a mistake in the config's syntax
        if stopped:
            raise stopped[0] from error
        raise
    finally:
        stop_request.reset()
        for number, handler in before.items():
            signal.signal(number, handler)


def command_line() -> str:
    """What the user has typed."""
    return os.environ.get(COMMAND) or f'{sys.argv[0]} {shlex.join(sys.argv[1:])}'.strip()


def report(stop: KeyboardInterrupt, program: str, module: ModuleType | None) -> int:
    """Say how to go on, in the first process of a distributed run; the exit status.

    Args:
        stop: What ended the command.
        program: The command's name.
        module: Of the subcommand; its ``resume_advice()`` says how to go on. None: it was not yet loaded.
    """
    number = stop.number if isinstance(stop, Terminated) else signal.SIGINT
    if os.environ.get('RANK', '0') == '0':
        # without torch no work has begun, and what is imported of it by half crashes where it is imported again
        advice = getattr(module, 'resume_advice', None) if 'torch' in sys.modules else None
        try:
            said = advice() if advice else 'Nothing of it can be resumed: start it again'
        except Exception:  # the config or the work directory may be what the user stopped it for
            said = f'To continue from the last checkpoint, if there is one: {command_line()} --resume'
        if said:
            word = 'interrupted' if number == signal.SIGINT else 'terminated'
            print(f'\n{program}: {word}. {said}', file=sys.stderr, flush=True)
    return 128 + int(number)

"""On Ctrl-C, SIGTERM or SIGUSR1, ends a command and its processes, and prints one line that says how to continue."""

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

# environment variable with the command that started a distributed run, which tools/dist_*.sh sets
COMMAND = 'MMSEG_INVATTN_COMMAND'
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def terminable() -> Iterator[None]:
    """Let these signals end the workers first, and then raise ``KeyboardInterrupt`` in the block.

    After SIGTERM and SIGUSR1 a training first finishes its iteration, and then ends the block itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()
    stopped: list[KeyboardInterrupt] = []

    def stop(number: int, frame: object) -> None:
        if os.getpid() != process:  # a fork has inherited this function, but is to end as usual
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        # torch raises an error when a worker ends, and workers may have got the signal too
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if number != signal.SIGINT and stop_request.note(number):
            return
        end_workers()
        stopped.append(KeyboardInterrupt() if number == signal.SIGINT else Terminated(number))
        raise stopped[0]

    def end_workers() -> None:
        for other in handled:  # a second signal must not interrupt the clean-up
            signal.signal(other, signal.SIG_IGN)
        for worker in multiprocessing.active_children():  # workers whose parent has ended print tracebacks
            worker.terminate()

    # a shell makes its background jobs ignore Ctrl-C
    handled = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in handled}
    try:
        yield
    except Terminated:
        end_workers()
        raise
    except Exception as error:
        # an interrupt while MMEngine writes a config is reported by it as a mistake in the config's syntax
        if stopped:
            raise stopped[0] from error
        raise
    finally:
        stop_request.reset()
        for number, handler in before.items():
            signal.signal(number, handler)


def command_line() -> str:
    """The command line that the user has typed."""
    return os.environ.get(COMMAND) or f'{sys.argv[0]} {shlex.join(sys.argv[1:])}'.strip()


def report(stop: KeyboardInterrupt, program: str, module: ModuleType | None) -> int:
    """Print how to continue, only in the first process of a distributed run, and return the exit status.

    Args:
        stop: The exception that ended the command.
        program: The name of the command.
        module: Module of the subcommand, whose ``resume_advice()`` says how to continue; None if it is not loaded yet.
    """
    number = stop.number if isinstance(stop, Terminated) else signal.SIGINT
    if os.environ.get('RANK', '0') == '0':
        # Without torch no work has begun, and a partly imported torch crashes if it is imported again.
        advice = getattr(module, 'resume_advice', None) if 'torch' in sys.modules else None
        try:
            said = advice() if advice else 'This command cannot be resumed: start it again'
        except (
            Exception
        ):  # the config or the work directory may be wrong, and the reason why the user stopped the command
            said = f'To continue from the last checkpoint, if there is one: {command_line()} --resume'
        if said:
            word = 'interrupted' if number == signal.SIGINT else 'terminated'
            print(f'\n{program}: {word}. {said}', file=sys.stderr, flush=True)
    return 128 + int(number)

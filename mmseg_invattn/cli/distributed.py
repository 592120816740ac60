"""Start the processes of a distributed run with torchrun; if a process fails, the last line printed names the cause.

The arguments are those of torchrun. tools/dist_train.sh and tools/dist_test.sh call it.
"""

from __future__ import annotations

import os
import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import parse_args
from torch.distributed.run import run as start

from ..stop_request import Terminated
from .interruption import SIGNALS
from .main import run


def main(arguments: list[str] | None = None) -> int:
    from ..engine.launched import end_with_launcher

    end_with_launcher()
    try:
        start(parse_args(arguments))
    except ChildFailedError as error:
        # The other processes fail too, because their connection is lost. An error of the user has exit status 2.
        failures = sorted(error.failures.items(), key=lambda pair: (pair[1].exitcode != 2, pair[1].timestamp))
        rank, failure = failures[0]
        stopped = {failure.exitcode - 128 for _, failure in failures}
        if stopped <= set(map(int, SIGNALS)):  # asked to by a signal to one of them; the first has said how to go on
            number = stopped.pop()
            raise (KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)) from None
        print(f'\n{sys.argv[0]}: process {rank} failed: {cause(failure)}', file=sys.stderr, flush=True)
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as stop:  # the processes have ended, and the first has printed how to continue
        raise (Terminated if stop.sigval == signal.SIGTERM else KeyboardInterrupt) from None
    return 0


def cause(failure: ProcessFailure) -> str:
    """The reason why a process ended, as far as it is known."""
    if failure.exitcode < 0:
        out_of_memory = ' (perhaps because memory ran out)' if failure.exitcode == -signal.SIGKILL else ''
        return f'killed by {failure.signal_name()}{out_of_memory}'
    if isinstance(failure.message, dict):
        return failure.message['message'].partition(': ')[2]
    return f'it ended with exit status {failure.exitcode} and left no message'


def resume_advice() -> str:
    """Empty, because the first process has printed it."""
    return ''


if __name__ == '__main__':
    sys.exit(run('distributed', program=os.environ.get('MMSEG_INVATTN_COMMAND', 'torchrun').split()[0]))

"""Ends a launched process when its launcher ends; otherwise it would go on writing into the folder."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

PARENT = 'MMSEG_INVATTN_PARENT'  # id of the process that launches others, which it sets for them
GRACE = 20.0  # seconds for a last checkpoint
LOOKS_EVERY = 0.5  # seconds


def end_with_launcher() -> None:
    """Watch the launcher (torchrun, or the process that has set ``PARENT``) from a thread.

    A process that was started by hand has no launcher, and goes on when its shell is closed.
    """
    parent = os.getppid()
    known = os.environ.get(PARENT)
    if known and known.isdigit() and int(known) != os.getpid() and not os.path.exists(f'/proc/{known}'):
        if os.path.isdir('/proc/self'):
            _end(int(known))
    if known == str(parent) or 'TORCHELASTIC_RUN_ID' in os.environ:
        threading.Thread(target=_watch, args=(parent,), daemon=True, name='end with launcher').start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOKS_EVERY)
    _end(parent)


def _end(parent: int) -> None:
    try:
        print(f'process {parent}, which launched this one, has ended: this one ends too', file=sys.stderr, flush=True)
    except OSError:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)

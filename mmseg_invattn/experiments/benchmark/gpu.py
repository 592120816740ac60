"""``mmseg-invattn benchmark --gpu``: the tests that want a GPU, and what is to be known of one, within eight minutes.

What fails is said in the table and in the exit status, and the rest goes on: a card may be lent for this one run.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from ...paths import ROOT
from .report import Line, Quantity
from .session import Session

TESTS = ROOT / 'tests' / 'gpu'
TIME, TIME_OF_TESTS = 400, 180  # seconds; no part begins after the first, and of eight minutes the rest is for the last
NO_TESTS = "not run: they are in a checkout, where `pip install -e '.[onedl,dev]'` provides what they need"


def check_device(device: str, quick: bool) -> None:
    """Refuses what is no GPU, but for trying.

    Raises:
        ValueError: the device is none, and the run not a quick one.
    """
    if quick or device.startswith('cuda'):
        return
    if torch.cuda.is_available():
        raise ValueError(f'--gpu with --device={device}: leave out one of them, or add --quick to try it at tiny sizes')
    raise ValueError(
        '--gpu, and torch finds no GPU: add --quick to try all of it on the CPU at tiny sizes, or look at '
        '`mmseg-invattn doctor`'
    )


def run(session: Session, parts: Mapping[str, Callable[[Session], None]]) -> int:
    """The tests and then the parts; 1 where something failed, else 0."""
    start = time.monotonic()
    good = run_tests(session, TESTS)
    for name, part in parts.items():
        if time.monotonic() - start > TIME:
            note = f'not run: {TIME} s are over; --what {name} measures it alone'
            session.add(Line(name, '-', dict(device=session.device), note=note))
        else:
            good &= _tried(session, name, part)
    return 0 if good else 1


def run_tests(session: Session, folder: Path) -> bool:
    """Those marked ``gpu``; where there is no GPU their twins on the CPU. False where one failed."""
    line = Line('tests of a GPU', '-', dict(device=session.device))
    if not folder.is_dir() or importlib.util.find_spec('pytest') is None:
        session.add(line.with_note(NO_TESTS))
        return True
    command = [sys.executable, '-m', 'pytest', str(folder), *(['-m', 'gpu'] if session.on_gpu else [])]
    start = time.monotonic()
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIME_OF_TESTS)
    except subprocess.TimeoutExpired as late:
        print(_text(late.stdout), file=sys.stderr)
        session.add(line.with_note(f'stopped after {TIME_OF_TESTS} s'))
        return False
    took = Quantity('time', 's', time.monotonic() - start)
    if done.returncode:
        print(f'{done.stdout}{done.stderr}', file=sys.stderr)
    session.add(line.with_note(done.stdout.strip(' =\n').rpartition('\n')[2].strip(' ='), took))
    return not done.returncode


def _tried(session: Session, name: str, part: Callable[[Session], None]) -> bool:
    try:
        part(session)
    except Exception as error:  # whatever it is, the other parts are worth having
        traceback.print_exc()
        said = (str(error).splitlines() or [''])[0]
        session.add(Line(name, '-', dict(device=session.device), note=f'failed: {type(error).__name__}: {said}'))
        return False
    return True


def _text(output: bytes | str | None) -> str:
    return output.decode(errors='replace') if isinstance(output, bytes) else output or ''

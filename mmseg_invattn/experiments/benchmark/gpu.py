"""``mmseg-invattn benchmark --gpu``: all tests that need a GPU and all measurements, within eight minutes.

Failures are reported in the table and in the exit status, and the rest still runs, because a GPU may be available for
this run only.
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
# Seconds. No part starts after TIME, so that the last one has the rest of eight minutes.
TIME, TIME_OF_TESTS = 400, 180
NO_TESTS = "not run: they need a checkout of the repository and `pip install -e '.[onedl,dev]'`"


def check_device(device: str, quick: bool) -> None:
    """Checks that the device is a GPU, unless the run is a quick one.

    Raises:
        ValueError: the device is not a GPU, and the run is not a quick one.
    """
    if quick or device.startswith('cuda'):
        return
    if torch.cuda.is_available():
        raise ValueError(f'--gpu with --device={device}: leave one of them out, or add --quick to try tiny sizes')
    raise ValueError(
        '--gpu, but torch finds no GPU: add --quick for a trial on the CPU at tiny sizes, or run `mmseg-invattn doctor`'
    )


def run(session: Session, parts: Mapping[str, Callable[[Session], None]]) -> int:
    """Runs the tests and then the parts; returns 1 if something failed, else 0."""
    start = time.monotonic()
    good = run_tests(session, TESTS)
    for name, part in parts.items():
        if time.monotonic() - start > TIME:
            note = f'not run: {TIME} s have passed; use --what {name} to measure only this'
            session.add(Line(name, '-', dict(device=session.device), note=note))
        else:
            good &= _tried(session, name, part)
    return 0 if good else 1


def run_tests(session: Session, folder: Path) -> bool:
    """Runs the tests marked ``gpu``, or their CPU versions if there is no GPU. Returns False if one failed."""
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
    except Exception as error:  # whatever the error is, the other parts still run
        traceback.print_exc()
        said = (str(error).splitlines() or [''])[0]
        session.add(Line(name, '-', dict(device=session.device), note=f'failed: {type(error).__name__}: {said}'))
        return False
    return True


def _text(output: bytes | str | None) -> str:
    return output.decode(errors='replace') if isinstance(output, bytes) else output or ''

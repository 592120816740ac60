"""Fixtures that several test files share."""

import gc
import os
import signal
import subprocess
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from helpers.checkout import ROOT

import mmseg_invattn  # noqa: F401  (before any test imports mmseg, which needs compiled mmcv ops or their stand-in)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked ``cases(n)`` n parameter sets are for the default suite: the same ones at every run, chosen to
    have as many values of every parameter as n sets can."""
    tests = defaultdict(list)
    for item in items:
        if item.get_closest_marker('cases') and not item.get_closest_marker('slow'):
            tests[item.nodeid.split('[')[0]].append(item)
    for cases in tests.values():
        cases.sort(key=lambda item: zlib.crc32(item.nodeid.encode()))
        seen = set()
        for _ in range(cases[0].get_closest_marker('cases').args[0]):
            chosen = max(cases, key=lambda item: len(item.callspec.indices.items() - seen), default=None)
            if chosen:
                cases.remove(chosen)
                seen.update(chosen.callspec.indices.items())
        for item in cases:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """What is imported by now stays: a search for garbage, as MMEngine makes one for every data set, would take half of
    the time of a short run to look through it again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # extensions complain of what is left at the end


@pytest.fixture(autouse=True)
def environment_put_back() -> Iterator[None]:
    """Restores ``os.environ`` after each test, because the tested code may change it."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(autouse=True)
def ctrl_c_stops() -> Iterator[None]:
    """A shell has its background jobs ignore Ctrl-C, and what they start inherits that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope='session')
def data_root() -> Path:
    """Folder with sample data: ``INVATTN_DATA_ROOT``, else ``shared/data`` beside the repository."""
    root = Path(os.environ.get('INVATTN_DATA_ROOT', ROOT.parent / 'shared' / 'data'))
    if not root.is_dir():
        pytest.skip(f'no sample data: set INVATTN_DATA_ROOT ({root} does not exist)')
    return root


@pytest.fixture(scope='session')
def context_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small demo data set: 16 training and 8 validation images."""
    out = tmp_path_factory.mktemp('data') / 'context_shapes'
    tool = ROOT / 'tools' / 'dataset_converters' / 'context_shapes.py'
    subprocess.run([sys.executable, str(tool), '--out', str(out), '--num-train', '16', '--num-val', '8'], check=True)
    return out

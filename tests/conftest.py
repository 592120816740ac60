"""Fixtures that several test files share."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from helpers.checkout import ROOT

import mmseg_invattn  # noqa: F401  (before any test imports mmseg, which needs compiled mmcv ops or their stand-in)


@pytest.fixture(autouse=True)
def environment_put_back() -> Iterator[None]:
    """What code under test writes into ``os.environ``, ranks for instance, ends with its test."""
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

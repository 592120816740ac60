"""Where a run took place: device, versions, commit."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from mmengine.device import get_device

from ...paths import ROOT

PACKAGES = (
    'mmseg_invattn',
    'torch',
    'numpy',
    'mmengine',
    'onedl-mmengine',
    'mmcv-lite',
    'mmcv',
    'onedl-mmcv',
    'mmsegmentation',
    'onedl-mmsegmentation',
)


def environment() -> dict:
    """Time, device, versions and commit, as plain values."""
    return dict(
        time=time.strftime('%Y-%m-%d %H:%M:%S'),
        device=device_name(),
        python=platform.python_version(),
        versions=_versions(),
        commit=commit(),
        command=' '.join(sys.argv),
    )


def device_name() -> str:
    """The GPU that MMEngine would choose, or the processor and the threads that torch uses."""
    if get_device() == 'cuda':
        return torch.cuda.get_device_name()
    return f'{processor_name()}, {torch.get_num_threads()} threads'


def processor_name() -> str:
    lines = Path('/proc/cpuinfo').read_text().splitlines() if Path('/proc/cpuinfo').is_file() else []
    models = (line.split(':', 1)[1].strip() for line in lines if line.startswith('model name'))
    return next(models, platform.processor() or platform.machine())


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # of the two package lines one is installed
            continue
    return found | dict(torch=torch.__version__)  # the metadata do not say for which CUDA it was built


def commit() -> str | None:
    """The commit of the checkout; ``+changes`` where files differ from it; None outside of a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(['git', *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return git('rev-parse', '--short=12', 'HEAD') + '+changes' * bool(git('status', '--porcelain', '-uno'))
    except (OSError, subprocess.CalledProcessError):
        return None

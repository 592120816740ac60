"""Records device, versions and commit of a run."""

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
from ...wording import counted

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
    """The GPU that MMEngine would choose, or the processor and the number of threads that torch uses."""
    if get_device() == 'cuda':
        return torch.cuda.get_device_name()
    return f'{processor_name()}, {counted(torch.get_num_threads(), "thread")}'


def processor_name() -> str:
    lines = Path('/proc/cpuinfo').read_text().splitlines() if Path('/proc/cpuinfo').is_file() else []
    models = (line.split(':', 1)[1].strip() for line in lines if line.startswith('model name'))
    return next(models, platform.processor() or platform.machine())


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # only one of OneDL's and OpenMMLab's packages is installed
            continue
    return found | dict(torch=torch.__version__)  # unlike the metadata, this names the CUDA version


def commit() -> str | None:
    """The commit of the checkout, with ``+changes`` if files differ from it; None outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(['git', *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return git('rev-parse', '--short=12', 'HEAD') + '+changes' * bool(git('status', '--porcelain', '-uno'))
    except (OSError, subprocess.CalledProcessError):
        return None

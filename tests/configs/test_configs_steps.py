"""One training step and one prediction with every config, in fresh processes: nothing is exempt.

Some of the smallest configs of each (head, backbone) and of short comparisons always; all configs, one fresh process
a folder, behind ``slow``.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.checkout import ROOT
from helpers.config_cases import CONFIGS, FOLDERS, NAME, SHORT


def smallest() -> list[Path]:
    """The config with the shallowest backbone for each (head, backbone); modes and forms of a head count as one.

    That of a user's own data stands by itself.
    """
    chosen = {}
    for path in CONFIGS:
        name = NAME.fullmatch(path.stem)
        family, depth = re.match(r'([a-z]+)(\d*)', name['backbone']).groups()
        candidate = (int(depth or 0), len(path.stem), path)
        key = (path.parent.name == 'own_data', name['algo'].split('-')[0], family)
        chosen[key] = min(chosen.get(key, candidate), candidate)
    return [path for _, _, path in chosen.values()]


def take_steps(paths: list[Path]) -> None:
    """Trains and predicts once with each config, in one process that does not import the package before a config."""
    script = str(ROOT / 'tests' / 'helpers' / 'config_steps.py')
    result = subprocess.run(
        [sys.executable, script, *map(str, paths)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'),
    )
    done = [line.split()[1] for line in result.stdout.splitlines() if line.startswith('ok ')]
    failed = [str(path) for path in paths][len(done) :]
    assert not failed and result.returncode == 0, f'{failed[:1]}: {result.stderr[-3000:]}'


def test_smallest_train_and_predict():
    paths = smallest()
    heads, u_nets = ([path for path in SHORT if folder in path.parts] for folder in ('comparison', 'inv_unet'))
    assert (len(paths), len(heads), len(u_nets)) == (27, 27, 4)
    take_steps([*paths[::3], *heads[::3], *u_nets[::2]])


@pytest.mark.slow
@pytest.mark.parametrize('folder', FOLDERS, ids=lambda folder: folder.name)
def test_config_trains_and_predicts(folder):
    take_steps([path for path in (*CONFIGS, *SHORT) if path.parent == folder])

"""The leaf configs of segmentors and what their names say.

Those of configs/reconstruction and configs/flow are no segmentors and follow other rules: test_reconstruction.py and
test_flow_tools.py build and train them. Those of classification lie one folder deeper.
"""

import re
from functools import cache
from pathlib import Path

from helpers.checkout import ROOT
from mmengine.config import Config

FOLDER = ROOT / 'configs'
OTHERS = ('_base_', 'flow', 'reconstruction')
CONFIGS = sorted(path for path in FOLDER.glob('*/*.py') if path.parent.name not in OTHERS)
# comparisons on a CPU, whose files are called after the head or the backbone alone
SHORT = sorted((*FOLDER.glob('comparison/*/*.py'), *FOLDER.glob('inv_unet/*/*.py')))
FOLDERS = sorted({path.parent for path in (*CONFIGS, *SHORT)})
# {algo}_{backbone}-d8_{GPUs}xb{batch}-[amp-]{iters}k_{dataset}-{HxW}.py
NAME = re.compile(
    r'(?P<algo>[a-z0-9-]+)_(?P<backbone>[a-z0-9-]+)_(?P<gpus>\d+)xb(?P<batch>\d+)-(?P<amp>amp-)?(?P<iters>\d+)k_'
    r'(?P<data>[a-z0-9-]+?)-(?P<height>\d+)x(?P<width>\d+)'
)


@cache
def load(path: Path) -> Config:
    """A config, read once a process; copy what you change."""
    return Config.fromfile(path)

"""Train, evaluate and compare segmentation heads; docs/guides/compare.md describes what is measured and how.

The command ``mmseg-invattn compare`` under the name that users of MMSegmentation type.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmseg_invattn') is None:  # not installed: run from the checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmseg_invattn.cli.main import run

if __name__ == '__main__':
    sys.exit(run('compare'))

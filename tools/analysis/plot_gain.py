"""Draw the certified gain of an attention branch against its sharpness, as an SVG.

The command ``mmseg-invattn analyze plot-gain`` as a file.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmseg_invattn') is None:  # not installed: run from the checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmseg_invattn.cli.main import run

if __name__ == '__main__':
    sys.exit(run('analyze plot-gain'))

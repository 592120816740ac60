"""Train the demo with every form and mode of attention, and report how many iterations each needs to learn it.

The command ``mmseg-invattn analyze learning`` as a file.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmseg_invattn') is None:  # not installed: run from the checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmseg_invattn.cli.main import run

if __name__ == '__main__':
    sys.exit(run('analyze learning'))

"""Print a Markdown table of several classification runs: accuracy, parameters and seconds per iteration.

The command ``mmseg-invattn analyze accuracy-table`` as a file.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmseg_invattn') is None:  # not installed: run from the checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmseg_invattn.cli.main import run

if __name__ == '__main__':
    sys.exit(run('analyze accuracy-table'))

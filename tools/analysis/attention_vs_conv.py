"""Show how close the heads of a trained attention network are to convolutions, in numbers and pictures.

The command ``mmseg-invattn analyze attention-vs-conv`` as a file.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmseg_invattn') is None:  # not installed: run from the checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmseg_invattn.cli.main import run

if __name__ == '__main__':
    sys.exit(run('analyze attention-vs-conv'))

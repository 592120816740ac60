"""Generate the demo data: the class of the shapes depends on the colour of a marker on the far side of the image.

The command ``mmseg-invattn convert context-shapes`` under the name that users of MMSegmentation type.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmseg_invattn') is None:  # not installed: run from the checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmseg_invattn.cli.main import run

if __name__ == '__main__':
    sys.exit(run('convert context-shapes'))

"""``python -m mmseg_invattn.cli`` is the command ``mmseg-invattn``."""

import sys

from .main import main

if __name__ == '__main__':
    sys.exit(main(program='python -m mmseg_invattn.cli'))

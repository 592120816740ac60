"""Table of several runs of classification, in Markdown.

python tools/analysis/accuracy_table.py WORK_DIR [WORK_DIR ...]
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmseg_invattn') is None:  # not installed: run from the checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmseg_invattn.experiments.classify.accuracy_table import markdown_table, read_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dirs', type=Path, nargs='+', help='work directories of tools/train.py')
    print(markdown_table([read_run(folder) for folder in parser.parse_args().work_dirs]))


if __name__ == '__main__':
    main()

"""Print a Markdown table of several classification runs: accuracy, parameters and seconds per iteration.

Runs with work directories NAME/seed_0, NAME/seed_1, ... share a line, with the mean and the range.
"""

import argparse
from pathlib import Path

from ..parser import CommandParser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'work_dirs/quadratic work_dirs/resnet18')
    parser.add_argument('work_dirs', type=Path, nargs='+', metavar='RUN', help='work directory of a training')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    from ...experiments.classify.accuracy_table import markdown_table, read_run

    print(markdown_table([read_run(folder) for folder in args.work_dirs]))

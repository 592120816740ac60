"""Train segmentation heads, evaluate and compare them, and write one report.

What is trained already is not trained again. docs/compare.md says what is measured and how.
"""

from __future__ import annotations

import argparse

from ..experiments.compare.compare import compare
from ..experiments.compare.folder import run_folders
from .arguments import add_cfg_options
from .interruption import command_line
from .output import add_output_arguments
from .parser import CommandParser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'CONFIG CONFIG --seeds 0 1 2 --out work_dirs/compare')
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='config files; the first is the baseline')
    parser.add_argument(
        '--seeds', nargs='+', type=int, default=[0], metavar='N', help='one training of each config for each seed'
    )
    add_output_arguments(parser, 'folder of the runs and the report', 'work_dirs/compare', folder=True)
    parser.add_argument('--resume', action='store_true', help='go on with the comparison that --out holds')
    parser.add_argument(
        '--jobs',
        type=int,
        default=1,
        metavar='N',
        help='trainings at a time, each on its share of the cores; default: 1',
    )
    parser.add_argument(
        '--baseline', metavar='CONFIG', help='the config that the others are compared with; default: the first'
    )
    parser.add_argument(
        '--checkpoints',
        nargs='+',
        metavar='FILE',
        help='evaluate these instead of training: all seeds of the first config, then of the second; default: train',
    )
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch'),
        default='none',
        help='pytorch: distribute each training over the processes of --processes',
    )
    parser.add_argument(
        '--processes',
        type=int,
        metavar='N',
        help='number for a distributed training; default: the GPUs of this machine',
    )
    add_cfg_options(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    return compare(parse_args(arguments))


def resume_advice() -> str:
    """How to go on with a comparison that was stopped."""
    args = parse_args()
    if not run_folders(args.out):
        return f'Nothing was written to {args.out} so far: start it again'
    return f'To go on with {args.out}: {command_line()}' + ' --resume' * (not args.resume)

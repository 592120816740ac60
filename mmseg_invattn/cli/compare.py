"""Train segmentation heads, evaluate and compare them, and write one report.

What is trained already is not trained again. docs/guides/compare.md says what is measured and how.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_cfg_options
from .interruption import command_line
from .output import add_output_arguments
from .parser import CommandParser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'CONFIG CONFIG --seeds 0 1 2 --out work_dirs/compare')
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='config files; the first is the baseline')
    parser.add_argument(
        '--seeds', nargs='+', type=int, default=[0], metavar='N', help='one training of each config for each seed'
    )
    add_output_arguments(parser, 'folder of the runs and the report', 'work_dirs/compare', folder=True)
    parser.add_argument('--resume', action='store_true', help='go on with the comparison that --out holds')
    parser.add_argument(
        '--jobs', type=int, default=1, metavar='N', help='runs at a time, each on its share of the cores; default: 1'
    )
    parser.add_argument(
        '--baseline', metavar='CONFIG', help='the config that the others are compared with; default: the first'
    )
    parser.add_argument(
        '--control',
        metavar='CONFIG',
        help='the config that shows what is reached without attention; default: the first whose model has none',
    )
    parser.add_argument(
        '--margin',
        type=float,
        metavar='MIOU',
        help='test for every head whether it loses less than so much to the baseline; default: no test',
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
    parser.add_argument(
        '--results',
        type=Path,
        metavar='FILE',
        help='write the report of this results.json again, and do nothing else; default: none',
    )
    add_cfg_options(parser)
    args = parser.parse_args(arguments)
    if args.results is None and not args.configs:
        parser.error('give config files, or --results')
    others = set(vars(args)) - {'configs', 'results', 'out', 'overwrite'}
    changed = [name for name in others if getattr(args, name) != parser.get_default(name)]
    if args.results is not None and (args.configs or changed):
        parser.error('--results takes no config files, and nothing but --out and --overwrite')
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)

    from ..experiments.compare.compare import compare

    return compare(args)


def resume_advice() -> str:
    """How to go on with a comparison that was stopped."""
    from ..experiments.compare.folder import run_folders

    args = parse_args()
    if args.results is not None or not run_folders(args.out):
        return f'Nothing was written to {args.out} so far: start it again'
    return f'To go on with {args.out}: {command_line()}' + ' --resume' * (not args.resume)

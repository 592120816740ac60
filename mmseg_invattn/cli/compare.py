"""Train segmentation heads, evaluate and compare them, and write one report.

Runs that are already trained are not trained again. docs/guides/compare.md describes what is measured and how.
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
        '--seeds', nargs='+', type=int, default=[0], metavar='N', help='seeds; every config is trained once per seed'
    )
    add_output_arguments(parser, 'folder for the runs and the report', 'work_dirs/compare', folder=True)
    parser.add_argument('--resume', action='store_true', help='continue the comparison in --out')
    parser.add_argument(
        '--jobs',
        type=int,
        default=1,
        metavar='N',
        help='number of runs at the same time, each with its share of the cores; default: 1',
    )
    parser.add_argument(
        '--baseline', metavar='CONFIG', help='the config with which the others are compared; default: the first'
    )
    parser.add_argument(
        '--control',
        metavar='CONFIG',
        help='the config that shows the result without attention; default: the first config without attention',
    )
    parser.add_argument(
        '--margin',
        type=float,
        metavar='MIOU',
        help='test for every head whether its mIoU is less than this below the baseline; default: no test',
    )
    parser.add_argument(
        '--checkpoints',
        nargs='+',
        metavar='FILE',
        help='evaluate these checkpoints instead of training: all seeds of the first config, then those of the second, '
        'and so on; default: train',
    )
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch'),
        default='none',
        help='pytorch: distribute each training over several processes, see --processes',
    )
    parser.add_argument(
        '--processes',
        type=int,
        metavar='N',
        help='number of processes of a distributed training; default: the number of GPUs of this machine',
    )
    parser.add_argument(
        '--results',
        type=Path,
        nargs='+',
        metavar='FILE',
        help='only write the report of this results.json again, or one report of several that have different heads or '
        'different seeds; the first decides the baseline and the control; default: none',
    )
    parser.add_argument(
        '--doc',
        type=Path,
        metavar='FILE',
        help='put the tables of accuracy, cost and attention, and a picture of the differences and learning curves '
        '(FILE with the suffix .svg), between <!-- table --> and <!-- end --> of this file; default: none',
    )
    add_cfg_options(parser)
    args = parser.parse_args(arguments)
    if args.results is None and not args.configs:
        parser.error('give config files or --results')
    others = set(vars(args)) - {'configs', 'results', 'out', 'overwrite', 'doc'}
    if args.results is not None and len(args.results) > 1:
        others -= {'margin'}
    changed = [name for name in others if getattr(args, name) != parser.get_default(name)]
    if args.results is not None and (args.configs or changed):
        parser.error(
            '--results can be combined only with --out, --overwrite and --doc (with several files also with '
            '--margin), not with config files'
        )
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)

    from ..experiments.compare.compare import compare

    return compare(args)


def resume_advice() -> str:
    """How to continue a comparison that was stopped."""
    from ..experiments.compare.folder import run_folders

    args = parse_args()
    if args.results is not None or not run_folders(args.out):
        return f'Nothing was written to {args.out} so far: start the command again'
    return f'To continue {args.out}: {command_line()}' + ' --resume' * (not args.resume)

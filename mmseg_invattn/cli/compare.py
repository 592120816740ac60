"""Train, evaluate and compare segmentation heads; docs/compare.md says what is measured and how.

python tools/compare.py CONFIG [CONFIG ...] [--seeds 0 1 2] [--out DIR] [--resume] [--cfg-options KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from mmengine.config import DictAction

from ..experiments.compare.compare import compare


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train what is not trained yet, evaluate, and write one report')
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='config files; the first is the baseline')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0], help='one training for each; default: 0')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/compare'),
        metavar='DIR',
        help='folder of the runs and the report; default: %(default)s',
    )
    parser.add_argument('--resume', action='store_true', help='go on with the comparison that --out holds')
    parser.add_argument('--baseline', metavar='CONFIG', help='the config that the others are compared with')
    parser.add_argument(
        '--checkpoints',
        nargs='+',
        metavar='FILE',
        help='evaluate these instead of training: all seeds of the first config, then of the second',
    )
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch'),
        default='none',
        help='pytorch: distribute each training over the processes of --processes',
    )
    parser.add_argument(
        '--processes', type=int, metavar='N', help='of a distributed training; default: the GPUs of this machine'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override settings of every config'
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the running step ends as well
    return compare(args)

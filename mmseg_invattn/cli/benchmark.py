"""Measures time, memory and evaluations against their peers, in one process and by turns.

    python tools/analysis/benchmark.py --what kernels blocks            # some of it
    python tools/analysis/benchmark.py --what all --device cuda         # everything, on a GPU
    python tools/analysis/benchmark.py --what models --configs PEER.py MINE.py --crop 512 1024 --batch 2

It prints a table and writes benchmark.md and benchmark.json. Every ratio is ours over the peer's: the median of the
rounds, or the worst of the samples where the line says so, with the quartiles in brackets. Memory is what a step
needs beyond its inputs. OMP_NUM_THREADS sets the threads.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from ..experiments.benchmark import blocks, inverse, kernels, models, stacks
from ..experiments.benchmark.report import Report
from ..experiments.benchmark.session import Session

PARTS = {
    'kernels': kernels.run,
    'blocks': blocks.run,
    'inverse': inverse.run,
    'memory': stacks.run,
    'models': models.run,
    'growth': blocks.growth,
}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--what', nargs='+', default=['all'], choices=[*PARTS, 'all'])
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:1')
    parser.add_argument(
        '--dtypes',
        nargs='+',
        choices=['float32', 'bfloat16'],
        help='float32 on the CPU, both on a GPU; the inverse is always measured in float32',
    )
    parser.add_argument('--repeats', type=int, help='rounds of every comparison; 3 to 7 by its length')
    parser.add_argument(
        '--configs',
        nargs='+',
        default=[],
        metavar='CONFIG',
        help='models to measure, the first of several being the peer of the others; by default the '
        'Cityscapes ResNet-50 with NLHead and with InvNLHead',
    )
    parser.add_argument(
        '--crop', nargs=2, type=int, metavar=('H', 'W'), help='of the models; default: what the first config trains on'
    )
    parser.add_argument('--batch', type=int, default=2, help='of the models; 1 is taken where it does not fit')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmark'))
    parser.add_argument('--quick', action='store_true', help='tiny sizes: shows that it runs, measures nothing')
    args = parser.parse_args(arguments)
    if args.repeats is not None and args.repeats < 1:
        raise ValueError(f'--repeats={args.repeats} is not a positive number of rounds')
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        raise ValueError(
            f'--device={args.device}, and torch finds no GPU: leave it out, or look at `python -m mmseg_invattn.doctor`'
        )
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    on_gpu = args.device.startswith('cuda')
    if on_gpu:
        torch.cuda.set_device(args.device)
    report = Report(args.out, args.device, ' '.join(['benchmark.py', *sys.argv[1:]]))
    session = Session(
        add=report.add,
        device=args.device,
        repeats=args.repeats,
        quick=args.quick,
        dtypes=tuple(args.dtypes or (('float32', 'bfloat16') if on_gpu else ('float32',))),
        configs=tuple(args.configs),
        crop=tuple(args.crop) if args.crop else (64, 64) if args.quick else None,
        batch=args.batch,
    )
    for name, run in PARTS.items():
        if name in args.what or 'all' in args.what:
            run(session)
    print(f'wrote {args.out / "benchmark.md"} and {args.out / "benchmark.json"}')

"""Measures time, memory and evaluations against their peers, in one process and by turns.

It prints a table and writes benchmark.md and benchmark.json. Every ratio is ours over the peer's: the median of the
rounds, or the worst of the samples where the line says so, with the quartiles in brackets. Memory is what a step
needs beyond its inputs. OMP_NUM_THREADS sets the threads.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from .arguments import add_cfg_options
from .output import add_output_arguments, refuse_existing
from .parser import CommandParser

if TYPE_CHECKING:
    from ..experiments.benchmark.session import Session

GPU_PARTS = ('kernels', 'blocks', 'models', 'memory', 'inverse', 'couplings')  # what matters most comes first
PARTS = (*GPU_PARTS, 'forms', 'growth')


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(
        __doc__,
        '--what kernels blocks',
        '--what all --device cuda',
        '--what models --configs PEER.py MINE.py --batch 2',
        '--gpu --out DIR',
    )
    parser.add_argument(
        '--gpu',
        action='store_true',
        help='run the tests of a GPU and what is to be known of one, within eight minutes: kernels against mmcv and '
        'against the floor of the card, a ResNet-50 with its head under bfloat16 AMP, memory-free stacks, inverses of '
        '8192 and 32768 pixels. With --quick all of it runs at tiny sizes, without a GPU too',
    )
    parser.add_argument(
        '--what',
        nargs='+',
        choices=[*PARTS, 'all'],
        metavar='PART',
        help=f'what is measured: {", ".join(PARTS)}; default: all, with --gpu {", ".join(GPU_PARTS)}',
    )
    parser.add_argument('--device', metavar='DEVICE', help='cpu, cuda or cuda:1; default: cpu, with --gpu cuda')
    parser.add_argument(
        '--dtypes',
        nargs='+',
        metavar='DTYPE',
        choices=['float32', 'bfloat16'],
        help='precisions: of the inputs of kernels, elsewhere of autocast, with float32 parameters (inverse and '
        'couplings are measured in float32 alone); default: float32 on the CPU, both on a GPU and with --gpu',
    )
    parser.add_argument(
        '--repeats', type=int, metavar='N', help='rounds of every comparison; default: 3 to 7 by its length'
    )
    parser.add_argument(
        '--configs',
        nargs='+',
        metavar='CONFIG',
        help='models to measure, the first of several being the peer of the others; default: the '
        'Cityscapes ResNet-50 with NLHead and with InvNLHead',
    )
    parser.add_argument(
        '--crop',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='size in pixels of the images of the models; default: what the first config trains on',
    )
    parser.add_argument(
        '--batch',
        type=int,
        default=2,
        metavar='N',
        help='images in a batch of the models; 1 is taken where they do not fit',
    )
    add_cfg_options(parser)
    add_output_arguments(parser, 'folder of benchmark.md and benchmark.json', 'work_dirs/benchmark', folder=True)
    parser.add_argument('--quick', action='store_true', help='tiny sizes: shows that it runs, measures nothing')
    args = parser.parse_args(arguments)
    if args.repeats is not None and args.repeats < 1:
        raise ValueError(f'--repeats={args.repeats} is not a positive number of rounds')
    return args


def measurements() -> dict[str, Callable[[Session], None]]:
    """What measures each part."""
    from ..experiments.benchmark import blocks, forms, inverse, kernels, models, stacks

    found = {
        'kernels': kernels.run,
        'blocks': blocks.run,
        'models': models.run,
        'memory': stacks.run,
        'inverse': inverse.run,
        'couplings': stacks.run_couplings,
        'forms': forms.run,
        'growth': blocks.growth,
    }
    assert tuple(found) == PARTS
    return found


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)

    import torch

    from ..engine.config_file import read_config
    from ..experiments.benchmark import gpu
    from ..experiments.benchmark.report import WRITTEN, Report
    from ..experiments.benchmark.session import Session

    if args.device is None:
        args.device = 'cuda' if args.gpu and torch.cuda.is_available() else 'cpu'
    on_gpu = args.device.startswith('cuda')
    if on_gpu and not torch.cuda.is_available():
        raise ValueError(
            f'--device={args.device}, and torch finds no GPU: leave it out, or look at `mmseg-invattn doctor`'
        )
    if args.gpu:
        gpu.check_device(args.device, args.quick)
    refuse_existing([args.out / name for name in WRITTEN], args.overwrite)
    for config in args.configs or ():  # before anything is measured
        read_config(config, args.cfg_options)
    if on_gpu:
        torch.cuda.set_device(torch.device(args.device).index or 0)  # which takes no 'cuda' without a number
    report = Report(args.out, args.device, ' '.join(sys.argv))
    session = Session(
        add=report.add,
        device=args.device,
        repeats=args.repeats,
        quick=args.quick,
        dtypes=tuple(args.dtypes or (('float32', 'bfloat16') if on_gpu or args.gpu else ('float32',))),
        configs=tuple(args.configs or ()),
        cfg_options=args.cfg_options,
        crop=tuple(args.crop) if args.crop else (32, 32) if args.quick else None,
        batch=args.batch,
    )
    wanted = args.what or (GPU_PARTS if args.gpu else ['all'])
    parts = {name: run for name, run in measurements().items() if name in wanted or 'all' in wanted}
    status = 0
    if args.gpu:
        status = gpu.run(session, parts)
    else:
        for run in parts.values():
            run(session)
    print('wrote ' + ' and '.join(str(args.out / name) for name in WRITTEN))
    return status

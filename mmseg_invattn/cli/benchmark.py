"""Measure time, memory and evaluations in comparison with peers, in one process and alternately.

It prints a table and writes benchmark.md and benchmark.json. Every ratio is ours divided by the peer's: the median of
the rounds, or the worst of the samples if the line says so, with the quartiles in brackets. Memory is what a step needs
in addition to its inputs. OMP_NUM_THREADS sets the number of threads.
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

GPU_PARTS = ('kernels', 'blocks', 'models', 'memory', 'inverse', 'couplings')  # the most important first
PARTS = (*GPU_PARTS, 'forms', 'growth', 'u-net')


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
        help='run all tests and measurements for a GPU, within eight minutes: kernels compared with mmcv and with the '
        'lower limit of the GPU, a ResNet-50 with its head under bfloat16 AMP, memory-free stacks, inverses of '
        '8192 and 32768 pixels. With --quick all of it runs at tiny sizes, also without a GPU',
    )
    parser.add_argument(
        '--what',
        nargs='+',
        choices=[*PARTS, 'all'],
        metavar='PART',
        help=f'parts to measure: {", ".join(PARTS)}; default: all, with --gpu {", ".join(GPU_PARTS)}',
    )
    parser.add_argument('--device', metavar='DEVICE', help='cpu, cuda or cuda:1; default: cpu, with --gpu cuda')
    parser.add_argument(
        '--dtypes',
        nargs='+',
        metavar='DTYPE',
        choices=['float32', 'bfloat16'],
        help='precision of the inputs of kernels, and of autocast in all other parts, where parameters are float32 '
        '(inverse and couplings are measured only in float32); default: float32 on the CPU, both on a GPU and with '
        '--gpu',
    )
    parser.add_argument(
        '--repeats', type=int, metavar='N', help='rounds of every comparison; default: 3 to 7, depending on its length'
    )
    parser.add_argument(
        '--configs',
        nargs='+',
        metavar='CONFIG',
        help='models to measure; if there are several, the first is the peer of the others; default: the '
        'Cityscapes ResNet-50 with NLHead and with InvNLHead',
    )
    parser.add_argument(
        '--crop',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='image size in pixels for the models; default: that of the training crops of the first config',
    )
    parser.add_argument(
        '--batch',
        type=int,
        default=2,
        metavar='N',
        help='images per batch for the models; 1 is used if they do not fit',
    )
    add_cfg_options(parser)
    add_output_arguments(parser, 'folder for benchmark.md and benchmark.json', 'work_dirs/benchmark', folder=True)
    parser.add_argument(
        '--quick', action='store_true', help='use tiny sizes, which only show that it runs; the numbers mean nothing'
    )
    args = parser.parse_args(arguments)
    if args.repeats is not None and args.repeats < 1:
        raise ValueError(f'--repeats={args.repeats} must be a positive number of rounds')
    return args


def measurements() -> dict[str, Callable[[Session], None]]:
    """The function that measures each part."""
    from ..experiments.benchmark import blocks, forms, inverse, kernels, models, stacks, u_net

    found = {
        'kernels': kernels.run,
        'blocks': blocks.run,
        'models': models.run,
        'memory': stacks.run,
        'inverse': inverse.run,
        'couplings': stacks.run_couplings,
        'forms': forms.run,
        'growth': blocks.growth,
        'u-net': u_net.run,
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
            f'--device={args.device}, but torch finds no GPU: leave --device out, or run `mmseg-invattn doctor`'
        )
    if args.gpu:
        gpu.check_device(args.device, args.quick)
    refuse_existing([args.out / name for name in WRITTEN], args.overwrite)
    for config in args.configs or ():  # before anything is measured
        read_config(config, args.cfg_options)
    if on_gpu:
        torch.cuda.set_device(torch.device(args.device).index or 0)  # set_device needs a number
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

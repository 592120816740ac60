"""Measure the memory for training a flow at small batch sizes, and extrapolate it linearly to a larger one."""

from __future__ import annotations

import argparse

from ..arguments import add_attention_arguments, add_config_arguments, read_config
from ..parser import CommandParser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'CONFIG --form certified --batches 2 16')
    add_config_arguments(parser)
    add_attention_arguments(parser)
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 3], metavar='N', help='batch sizes to measure')
    parser.add_argument('--target', type=int, default=64, metavar='N', help='batch size to extrapolate to')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    from ...experiments.flow.training_memory import GIB, extrapolate, step_memory

    cfg = read_config(args)
    print(
        '| activations | '
        + ' | '.join(f'batch {b}, measured' for b in args.batches)
        + f' | per image | batch {args.target}, extrapolated |'
    )
    print('| --- ' * (len(args.batches) + 3) + '|')
    for name, memory_free in (('recovered', True), ('stored', False)):
        memory = [step_memory(cfg, batch, memory_free) for batch in args.batches]
        fixed, slope = extrapolate(args.batches, memory, args.target)
        cells = [
            name,
            *(f'{m / GIB:.2f} GiB' for m in memory),
            f'{slope / GIB:.3f} GiB',
            f'{(fixed + slope * args.target) / GIB:.1f} GiB',
        ]
        print('| ' + ' | '.join(cells) + ' |', flush=True)

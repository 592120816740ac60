"""Draw images from a trained flow, as one picture."""

from __future__ import annotations

import argparse

from ..wording import counted
from .flow_arguments import add_flow_arguments, load_flow
from .output import refuse_existing
from .parser import CommandParser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'CONFIG CHECKPOINT --num 64 --out samples.png')
    add_flow_arguments(parser, 'samples.png')
    parser.add_argument('--num', type=int, default=64, metavar='N', help='number of images')
    parser.add_argument('--temperature', type=float, default=1.0, metavar='FACTOR', help="factor of the prior's scale")
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='seed of the random numbers')
    parser.add_argument('--columns', type=int, default=8, metavar='N', help='images in a row')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    from ..visualization.image_grid import image_grid, large
    from ..visualization.media import write_image

    refuse_existing([args.out], args.overwrite)
    model = load_flow(args)
    images, info = model.sample(args.num, args.temperature, seed=args.seed)
    write_image(args.out, large(image_grid(images, args.columns)))
    print(
        f'{args.out}: {counted(args.num, "image")} at temperature {args.temperature:g}; '
        f'the inverse did not converge for {int((~info.converged).sum())} of them, '
        f'largest residual {float(info.residual.max()):.1e}'
    )

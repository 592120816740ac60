"""Draw images from a trained flow, as one picture.

python tools/sample.py configs/flow/cifar10_8x8.py work_dirs/cifar10_8x8/iter_300.pth --out samples.png
"""

from __future__ import annotations

import argparse

from ..visualization.image_grid import image_grid
from ..visualization.media import write_image
from ..wording import counted
from .flow_arguments import add_flow_arguments, load_flow


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flow_arguments(parser, 'samples.png')
    parser.add_argument('--num', type=int, default=64, help='number of images')
    parser.add_argument('--temperature', type=float, default=1.0, help="factor of the prior's scale")
    parser.add_argument('--seed', type=int, default=0, help='the draw is a function of it')
    parser.add_argument('--columns', type=int, default=8, help='images in a row')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    model = load_flow(args)
    images, info = model.sample(args.num, args.temperature, seed=args.seed)
    write_image(args.out, image_grid(images, args.columns))
    print(
        f'{args.out}: {counted(args.num, "image")} at temperature {args.temperature:g}; '
        f'{int((~info.converged).sum())} of their inverses did not converge, '
        f'largest residual {float(info.residual.max()):.1e}'
    )

"""Interpolate between pairs of test images in the latent space of a trained flow; each pair is a row of the picture."""

from __future__ import annotations

import argparse

from ..wording import counted
from .flow_arguments import add_flow_arguments, load_flow
from .output import refuse_existing
from .parser import CommandParser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'CONFIG CHECKPOINT --pairs 0 1 2 3 --out walk.png')
    add_flow_arguments(parser, 'interpolation.png')
    parser.add_argument(
        '--pairs', type=int, nargs='+', default=[0, 1, 2, 3], metavar='INDEX', help='test images, two for each row'
    )
    parser.add_argument('--steps', type=int, default=8, metavar='N', help='images in a row, including both ends')
    args = parser.parse_args(arguments)
    if len(args.pairs) % 2:
        parser.error(f'--pairs needs two images for each row, but got {len(args.pairs)}')
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    from mmseg.registry import DATASETS

    from ..datasets.generative import read_images
    from ..experiments.flow.latent_walk import interpolate
    from ..visualization.image_grid import image_grid, large
    from ..visualization.media import write_image

    refuse_existing([args.out], args.overwrite)
    model = load_flow(args)
    dataset = DATASETS.build(model.cfg.test_dataloader.dataset)
    images = read_images(dataset, args.pairs).to(next(model.parameters()).device)
    walks, errors = interpolate(model, images[::2], images[1::2], args.steps)
    labels = [f'{first} to {last}' for first, last in zip(args.pairs[::2], args.pairs[1::2], strict=True)]
    write_image(args.out, large(image_grid(walks.flatten(0, 1), args.steps), labels))
    print(
        f'{args.out}: {counted(len(walks), "interpolation")} of {counted(args.steps, "image")}; the images at the ends '
        f'are recovered with errors of up to {float(errors.max()):.1e}'
    )

"""Paint what a model sees over an image, the images of a folder, or a video.

Of an image NAME: NAME_overlay.png with the legend of its classes, NAME_labels.png with the class of each pixel, and
NAME_confidence.png. Of a video: NAME_overlay.mp4 and NAME_confidence.mp4. Confidence is the probability of the class
that was chosen, as grey from 0 (black) to 1 (white).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..wording import counted
from .arguments import add_loading_arguments, add_model_arguments, load_model
from .output import add_output_arguments, refuse_existing
from .parser import CommandParser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(
        __doc__,
        'CONFIG CHECKPOINT street.png --out seen',
        'CONFIG CHECKPOINT drive.mp4 --out seen --confidence',
        'CHECKPOINT street.png --out seen',
    )
    add_model_arguments(parser, alone=True)
    parser.add_argument('input', type=Path, metavar='INPUT', help='image, folder of images, or video')
    add_output_arguments(parser, 'folder of the results', folder=True, required=True)
    parser.add_argument('--confidence', action='store_true', help='write the confidence of each pixel too')
    parser.add_argument(
        '--opacity', type=float, default=0.5, metavar='SHARE', help='opacity of the colours over the image, 0 to 1'
    )
    add_loading_arguments(parser)
    args = parser.parse_args(arguments)
    if not 0 <= args.opacity <= 1:
        parser.error(f'--opacity is {args.opacity}, but it must lie between 0 and 1')
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)

    from ..layers import constant_weights
    from ..visualization.media import IMAGE_SUFFIXES, VideoReader, find_images
    from ..visualization.prediction import Painter

    if not args.input.exists():
        raise FileNotFoundError(f'{args.input}: there is no such file or folder')
    is_folder = args.input.is_dir()
    images = find_images(args.input) if is_folder else [args.input] * (args.input.suffix.lower() in IMAGE_SUFFIXES)
    video = None if images else VideoReader(args.input)
    kinds = ['overlay'] + ['labels'] * bool(images) + ['confidence'] * args.confidence
    suffix = '.mp4' if video else '.png'
    refuse_existing(
        (args.out / f'{path.stem}_{kind}{suffix}' for path in images or [args.input] for kind in kinds), args.overwrite
    )
    model = load_model(args)
    args.out.mkdir(parents=True, exist_ok=True)
    painter = Painter(model, args.out, args.opacity, args.confidence)
    with constant_weights(model):
        if video:
            print(f'{counted(painter.paint_video(video, args.input.stem), "frame")}: {args.out}')
            return 0
        faults = painter.paint_images(images)
    print(f'{len(images) - len(faults)} of {counted(len(images), "image")}: {args.out}')
    for fault in faults:
        print(f'NOT READ: {fault}', file=sys.stderr)
    return 1 if faults else 0

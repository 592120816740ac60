"""Paint the predictions of a model over an image, the images of a folder, or a video.

For an image NAME the tool writes NAME_overlay.png, with a legend of its classes, and NAME_labels.png, with the values
of the data set's label files; --confidence adds NAME_confidence.png. For a video NAME it writes NAME_overlay.mp4 and,
with --confidence, NAME_confidence.mp4. Confidence is the probability of the predicted class, as grey from 0 (black) to
1 (white). Results of images in a sub-folder go into a sub-folder of the same name. Images are read by the pipeline of
the config's test data.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..compat import bound_primitive_cache
from ..wording import counted
from .arguments import add_loading_arguments, add_model_arguments, config_of_model, load_model
from .interruption import command_line
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
    add_output_arguments(parser, 'folder for the results', folder=True, required=True)
    parser.add_argument('--confidence', action='store_true', help='write the confidence of each pixel too')
    parser.add_argument(
        '--opacity', type=float, default=0.5, metavar='SHARE', help='opacity of the colours over the image, 0 to 1'
    )
    parser.add_argument(
        '--resume', action='store_true', help='continue an interrupted prediction: skip results that exist already'
    )
    add_loading_arguments(parser)
    args = parser.parse_args(arguments)
    if args.resume and args.overwrite:
        parser.error('--resume keeps existing results, but --overwrite replaces them: give only one of the two')
    if not 0 <= args.opacity <= 1:
        parser.error(f'--opacity is {args.opacity}, but it must lie between 0 and 1')
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    bound_primitive_cache()

    from ..engine.atomic_backend import remove_partial_files
    from ..engine.tested_pipeline import TestedPipeline
    from ..layers import constant_weights
    from ..visualization.media import VideoReader, bare_name, find_images
    from ..visualization.prediction import Painter

    if not args.input.exists():
        raise FileNotFoundError(f'{args.input}: there is no such file or folder')
    pipeline = TestedPipeline(config_of_model(args))
    is_folder = args.input.is_dir()
    if is_folder and args.out.resolve() == args.input.resolve():
        raise ValueError(
            f'--out {args.out} is the folder of the images, so that the next prediction would read the results as '
            f'images: choose another, such as {args.out / "seen"}'
        )
    is_image = args.input.name.lower().endswith(pipeline.suffixes)
    images = find_images(args.input, pipeline.suffixes, args.out) if is_folder else [args.input] * is_image
    video = None if images else VideoReader(args.input)
    kinds = ['overlay'] + ['labels'] * bool(images) + ['confidence'] * args.confidence
    pictures = {}
    for path in images or [args.input]:
        folder = args.out / path.parent.relative_to(args.input) if is_folder else args.out
        name = bare_name(path, pipeline.suffixes)
        pictures[path] = {kind: folder / f'{name}_{kind}{".mp4" if video else ".png"}' for kind in kinds}
    refuse_existing(
        (file for files in pictures.values() for file in files.values()),
        args.overwrite or args.resume,
        'another --out, or continue an interrupted prediction with --resume',
    )
    model = load_model(args)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.resume or args.overwrite:
        for folder in {file.parent for files in pictures.values() for file in files.values()}:
            remove_partial_files(folder)
    painter = Painter(model, pipeline, args.opacity, kinds, args.resume)
    if pipeline.reduce_zero_label and 'labels' in kinds:
        print('the labels count from 1, like the label files of the data set (reduce_zero_label)')
    with constant_weights(model):
        if video:
            number = painter.paint_video(args.input, video, pictures[args.input])
            told = f' of {video.count}' * bool(number and video.count and number < video.count)
            print(f'{number}{told} frames: {args.out}' if number else f'{args.input}: exists already in {args.out}')
            return 0
        before, faults = painter.paint_images(pictures)
    there = f', {before} of them done before' * bool(before)
    print(f'{len(images) - len(faults)} of {counted(len(images), "image")}{there}: {args.out}')
    for fault in faults:
        print(f'NOT READ: {fault}', file=sys.stderr)
    return 1 if faults else 0


def resume_advice() -> str:
    """How to continue a prediction that was stopped."""
    args = parse_args()
    line = command_line().replace(' --overwrite', '')
    return f'The finished results are in {args.out}. To continue: {line}' + ' --resume' * (not args.resume)

"""Export the forward pass of a segmentor to ONNX or torch.export, and check the file against PyTorch.

The graph goes from a preprocessed image to the logits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..choices import EXPORT_FORMATS
from .arguments import add_model_arguments, add_shape_argument, add_trust_argument, load_model
from .output import add_output_arguments, refuse_existing
from .parser import CommandParser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'CONFIG CHECKPOINT --format onnx --shape 512 1024')
    add_model_arguments(parser)
    parser.add_argument('--format', choices=EXPORT_FORMATS, required=True, help='format of the file')
    add_shape_argument(
        parser, 'image size in pixels of the exported graph; default: that of --image, or else of the training crops'
    )
    parser.add_argument('--image', metavar='FILE', help='image for the parity check; default: random numbers')
    add_output_arguments(parser, 'file to write; default: named after the checkpoint, in the current folder')
    parser.add_argument(
        '--tolerance',
        type=float,
        default=1e-4,
        metavar='TOL',
        help='largest allowed difference from PyTorch, relative to the largest logit',
    )
    add_trust_argument(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)

    from torch import nn

    from ..engine.atomic_backend import whole_file
    from ..engine.export import FORMATS, NOT_EXPORTED, ForwardPass, difference
    from ..engine.finite_outputs import outputs_of
    from ..engine.inference import random_image
    from ..visualization.model_input import read_image

    export, suffix = FORMATS[args.format]
    out = args.out or Path(Path(args.checkpoint).name).with_suffix(suffix)
    refuse_existing([out], args.overwrite)
    segmentor = load_model(args, 'cpu')
    image = read_image(segmentor, args.image, args.shape)[1] if args.image else random_image(segmentor, args.shape)
    model = ForwardPass(segmentor)
    with outputs_of(args.image or 'a random image'):
        model.check(image)
    with whole_file(out) as partial:
        exported = export(model, image, partial)
    error, largest = difference(model, exported, image)
    within = error <= args.tolerance * largest
    channels, height, width = image.shape[1:]
    print(
        f'{out}: float32 images (batch, {channels}, {height}, {width}) -> logits (batch, {segmentor.out_channels}, '
        f'{height}, {width}), {out.stat().st_size / 2**20:.1f} MiB'
    )
    print(
        f'comparison with PyTorch on {args.image or "a random image"}: largest difference {error:.2e} for logits up to '
        f'{largest:.2e}, {"within" if within else "ABOVE"} the relative tolerance {args.tolerance:g}'
    )
    if segmentor.out_channels == 1:
        heads = segmentor.decode_head
        threshold = (heads[-1] if isinstance(heads, nn.ModuleList) else heads).threshold
        print(f'one channel: class 1 is where the sigmoid of the logit is above {threshold:g}, class 0 elsewhere')
    print(NOT_EXPORTED)
    return 0 if within else 1

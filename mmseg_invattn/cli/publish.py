"""Reduce a checkpoint to its weights and class names, in a file whose name ends in the hash of its content.

The file is verified to load with torch.load(weights_only=True); torch.hub checks the hash.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..choices import WEIGHTS
from .arguments import add_trust_argument
from .output import add_output_arguments, refuse_existing
from .parser import CommandParser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'work_dirs/run/iter_20000.pth --out published')
    parser.add_argument('checkpoint', type=Path, metavar='CHECKPOINT', help='checkpoint file')
    add_output_arguments(parser, 'folder for the new file; default: that of the checkpoint', folder=True)
    parser.add_argument(
        '--weights',
        choices=WEIGHTS,
        help='for a run with EMAHook: the moving average of the weights, or the trained weights themselves; default: '
        'those that testing uses, which are averaged',
    )
    add_trust_argument(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    from ..engine.publish import publish, write_verified

    chosen = args.weights, args.trust_checkpoint
    path, content = publish(args.checkpoint, args.out or args.checkpoint.parent, *chosen)
    refuse_existing([path], args.overwrite)
    write_verified(path, content, args.checkpoint, *chosen)
    print(f'{path}: {len(content) / 2**20:.1f} MiB instead of {args.checkpoint.stat().st_size / 2**20:.1f} MiB')

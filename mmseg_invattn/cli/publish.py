"""Reduce a checkpoint to its weights and class names, under a name that ends in the hash of the file.

    python tools/analysis/publish_model.py CHECKPOINT [--out DIR] [--weights averaged|trained]

The file loads with torch.load(weights_only=True), which is verified, and torch.hub checks the hash.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..engine.publish import WEIGHTS, publish, write_verified
from .arguments import add_overwrite_argument, add_trust_argument, refuse_existing


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('--out', type=Path, metavar='DIR', help='default: the folder of the checkpoint')
    parser.add_argument(
        '--weights',
        choices=WEIGHTS,
        help='of a run with EMAHook: the moving average, or the weights behind it; default: those that '
        'tools/test.py uses, which are the average',
    )
    add_trust_argument(parser)
    add_overwrite_argument(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    chosen = args.weights, args.trust_checkpoint
    path, content = publish(args.checkpoint, args.out or args.checkpoint.parent, *chosen)
    refuse_existing([path], args.overwrite)
    write_verified(path, content, args.checkpoint, *chosen)
    print(f'{path}: {len(content) / 2**20:.1f} MiB of {args.checkpoint.stat().st_size / 2**20:.1f} MiB')

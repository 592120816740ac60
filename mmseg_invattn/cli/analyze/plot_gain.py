"""Draw the certified gain of an attention branch against its sharpness, as an SVG.

The gain is the factor by which a weighted mean of values of unit size can be multiplied so that the Lipschitz constant
is at most 0.9.
"""

import argparse

from ..output import add_output_arguments, refuse_existing
from ..parser import CommandParser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, '--out gain.svg')
    add_output_arguments(parser, 'SVG file to write', 'gain.svg')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    from ...engine.atomic_backend import AtomicLocalBackend
    from ...visualization.gain import draw_gain

    refuse_existing([args.out], args.overwrite)
    AtomicLocalBackend().put_text(draw_gain(), args.out)
    print(f'wrote {args.out}')

"""Invert attention blocks over a grid of settings and report which inverses failed.

A cell is a block of one mode and form with a number of channels and features of a certain scale, before or after
training to random targets at a high learning rate, in float32 or float64. It counts as failed if a sample does not
converge, or if the true error exceeds the reported bound. Without a bound it counts as failed if the true error exceeds
1e-2 of the features, because an iteration can converge to another input. The exit status is 1 if a form that guarantees
its inverse failed.
"""

import argparse
import time
from pathlib import Path

from ...choices import GRID_CHANNELS, INVERTIBLE_FORMS, MODES
from ..parser import CommandParser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, '--thin --forms certified paper', '--doc docs/results/inversion_grid.md')
    parser.add_argument(
        '--forms',
        nargs='+',
        default=INVERTIBLE_FORMS,
        choices=INVERTIBLE_FORMS,
        metavar='FORM',
        help='forms of the blocks',
    )
    parser.add_argument('--modes', nargs='+', default=MODES, choices=MODES, metavar='MODE', help='modes of the blocks')
    parser.add_argument(
        '--channels',
        nargs='+',
        type=int,
        default=GRID_CHANNELS,
        choices=GRID_CHANNELS,
        metavar='N',
        help='channels of the features',
    )
    parser.add_argument('--thin', action='store_true', help='use only one cell in seven')
    parser.add_argument(
        '--doc',
        type=Path,
        metavar='FILE',
        help='put the table between <!-- table --> and <!-- end --> of this file; default: none',
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)

    from ...experiments.doc_table import around_table, replace_table
    from ...experiments.invert.grid import SOUND, run_cell, settings, table

    if args.doc:
        around_table(args.doc)
    start = time.time()
    results = {}
    for setting in settings(tuple(args.forms), tuple(args.modes), args.thin, tuple(args.channels)):
        results[setting] = run_cell(setting)
        if results[setting].failed:
            print(setting, results[setting], flush=True)
        elif len(results) % 50 == 0:
            print(f'{len(results)} cells after {time.time() - start:.0f} s', flush=True)
    text = table(results)
    print(f'{text}\n{len(results)} cells in {time.time() - start:.0f} s')
    if args.doc:
        replace_table(args.doc, text)
    return int(any(s.form in SOUND and (outcome.failed or not outcome.held) for s, outcome in results.items()))

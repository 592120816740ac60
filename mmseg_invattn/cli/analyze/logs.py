"""Show the learning curves of one or several runs, and a table of the last and best values."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..output import add_output_arguments, refuse_existing
from ..parser import CommandParser

if TYPE_CHECKING:
    from prettytable import PrettyTable

    from ...engine.scalars import Run

SUFFIXES = ('.png', '.svg', '.pdf')
USUAL = ('loss', 'mIoU')


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'work_dirs/one work_dirs/other --out curves.svg')
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN', help='work directory, or a scalars.json')
    parser.add_argument(
        '--keys', nargs='+', metavar='NAME', help=f'scalars to show; default: {" and ".join(USUAL)}, if they exist'
    )
    add_output_arguments(parser, f'picture to write ({", ".join(SUFFIXES)}); default: none')
    args = parser.parse_args(arguments)
    parser.check_suffix(args.out, SUFFIXES, 'a picture')
    return args


def choose_keys(runs: list[Run], keys: list[str] | None) -> list[str]:
    """The scalars to show.

    Raises:
        ValueError: No run has one of the scalars, or there are none at all. The message lists the existing ones.
    """
    there = sorted({key for run in runs for key in run.curves})
    chosen = keys or [key for key in USUAL if key in there]
    missing = [key for key in chosen if key not in there]
    if missing or not chosen:
        raise ValueError(f'no run has {", ".join(missing or USUAL)}; existing scalars: {", ".join(there) or "none"}')
    return chosen


def make_table(runs: list[Run], keys: list[str]) -> PrettyTable:
    """Last and best value of each scalar in each run, with their iterations."""
    from prettytable import PrettyTable

    from ...engine.scalars import last_and_best

    table = PrettyTable(['run', 'scalar', 'last', 'at', 'best', 'best at'], align='r')
    table.align['run'] = table.align['scalar'] = 'l'
    for run in runs:
        for key in keys:
            found = last_and_best(key, run.curves[key]) if key in run.curves else None
            numbers = ['-'] * 4 if found is None else [text for step, value in found for text in (f'{value:.5g}', step)]
            table.add_row([run.name, key, *numbers])
    return table


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    from ...engine.scalars import read_runs
    from ...visualization.curves import draw_curves

    if args.out:
        refuse_existing([args.out], args.overwrite)
    runs = read_runs(args.runs)
    keys = choose_keys(runs, args.keys)
    print(make_table(runs, keys))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        draw_curves(args.out, runs, keys)
        print(f'curves: {args.out}')

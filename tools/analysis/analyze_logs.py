"""Learning curves of one or several runs, and a table of the last and best values.

python tools/analysis/analyze_logs.py work_dirs/RUN [work_dirs/RUN ...] --keys loss mIoU --out curves.svg
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmseg_invattn') is None:  # not installed: run from the checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from prettytable import PrettyTable

from mmseg_invattn.cli.arguments import add_overwrite_argument, check_suffix, refuse_existing
from mmseg_invattn.engine.scalars import Run, last_and_best, read_runs
from mmseg_invattn.visualization.curves import draw_curves

SUFFIXES = ('.png', '.svg', '.pdf')
USUAL = ('loss', 'mIoU')


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN', help='work directory, or a scalars.json')
    parser.add_argument('--keys', nargs='+', help=f'scalars; default: {" and ".join(USUAL)} where there are')
    parser.add_argument('--out', type=Path, metavar='FILE', help=f'picture ({", ".join(SUFFIXES)}); default: none')
    add_overwrite_argument(parser)
    args = parser.parse_args(arguments)
    check_suffix(parser, args.out, SUFFIXES, 'a picture')
    return args


def choose_keys(runs: list[Run], keys: list[str] | None) -> list[str]:
    """The scalars to show.

    Raises:
        ValueError: A scalar that no run has, or no scalars at all; lists what there is.
    """
    there = sorted({key for run in runs for key in run.curves})
    chosen = keys or [key for key in USUAL if key in there]
    missing = [key for key in chosen if key not in there]
    if missing or not chosen:
        raise ValueError(f'no run has {", ".join(missing or USUAL)}; there are: {", ".join(there) or "no scalars"}')
    return chosen


def make_table(runs: list[Run], keys: list[str]) -> PrettyTable:
    """Last and best value of each scalar in each run, with their iterations."""
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
    if args.out:
        refuse_existing([args.out], args.overwrite)
    runs = read_runs(args.runs)
    keys = choose_keys(runs, args.keys)
    print(make_table(runs, keys))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        draw_curves(args.out, runs, keys)
        print(f'curves: {args.out}')


if __name__ == '__main__':
    main()

"""The report on the heads of a relative attention network as tables for the terminal."""

from __future__ import annotations

from collections import defaultdict
from math import hypot
from pathlib import Path
from statistics import median

from prettytable import PrettyTable

from .head_curves import NEAR
from .relative_attention_pictures import read_centres


def make_table(rows: list[dict]) -> PrettyTable:
    """One line for each head; layers and heads count from 1, as in the pictures."""
    table = PrettyTable(['layer', 'head', 'centre', 'spread', 'entropy', 'tap', 'weight at tap'])
    numbered = _numbered(rows)
    for i, row in enumerate(rows):
        table.add_row(
            [
                numbered[row['layer']] if not row['head'] else '',
                row['head'] + 1,
                '{:+.2f}, {:+.2f}'.format(*row['centre']),
                f'{row["spread"]:.2f}',
                f'{row["entropy"]:.2f}',
                '{:+d}, {:+d}'.format(*row['tap']),
                f'{row["tap_weight"]:.3f}',
            ],
            divider=i + 1 == len(rows) or rows[i + 1]['head'] == 0,
        )
    return table


def _numbered(rows: list[dict]) -> dict[str, str]:
    """Name of a layer -> its number with the name."""
    names = dict.fromkeys(row['layer'] for row in rows)
    return {name: f'{number} ({name})' for number, name in enumerate(names, 1)}


def make_summary(rows: list[dict], centres: list[Path]) -> PrettyTable:
    """For each layer in all runs: medians over the heads, how many are near one pixel, and how far training moved them.

    Args:
        rows: rows of one or several runs.
        centres: files of ``AttentionCentreHook`` of the runs that have one.
    """
    moved = defaultdict(list)
    for path in centres:
        for name, places in read_centres(path)[1].items():
            moved[name.removesuffix('.mixing.encoding')] += [hypot(*way) for way in (places[-1] - places[0]).tolist()]
    table = PrettyTable(
        ['layer', 'distance of centre', 'moved', 'spread', 'entropy', 'weight at tap', f'heads above {NEAR}']
    )
    for name, numbered in _numbered(rows).items():
        heads = [row for row in rows if row['layer'] == name]
        middle = [median(hypot(*row['centre']) for row in heads)]
        middle += [median(row[key] for row in heads) for key in ('spread', 'entropy', 'tap_weight')]
        near = sum(row['tap_weight'] > NEAR for row in heads)
        middle = [f'{value:.2f}' for value in middle]
        middle.insert(1, f'{median(moved[name]):.2f}' if name in moved else '-')
        table.add_row([numbered, *middle, f'{near} of {len(heads)}'])
    return table

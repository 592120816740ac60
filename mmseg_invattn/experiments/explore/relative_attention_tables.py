"""The report on the heads of a relative attention network as tables for the terminal."""

from __future__ import annotations

from math import hypot
from pathlib import Path
from statistics import median

from prettytable import PrettyTable

from .relative_attention_pictures import read_centres


def make_table(rows: list[dict]) -> PrettyTable:
    """One line a head."""
    table = PrettyTable(['layer', 'head', 'centre', 'spread', 'entropy', 'tap', 'weight at tap'])
    for i, row in enumerate(rows):
        table.add_row(
            [
                row['layer'] if not row['head'] else '',
                row['head'],
                '{:+.2f}, {:+.2f}'.format(*row['centre']),
                f'{row["spread"]:.2f}',
                f'{row["entropy"]:.2f}',
                '{:+d}, {:+d}'.format(*row['tap']),
                f'{row["tap_weight"]:.3f}',
            ],
            divider=i + 1 == len(rows) or rows[i + 1]['head'] == 0,
        )
    return table


def make_summary(rows: list[dict], centres: Path | None) -> PrettyTable:
    """Medians over the heads of every layer, how many heads are nearly one pixel, and how far training moved them."""
    moved = {}
    if centres is not None:
        moved = {
            name.removesuffix('.mixing.encoding'): median(hypot(*way) for way in (places[-1] - places[0]).tolist())
            for name, places in read_centres(centres)[1].items()
        }
    table = PrettyTable(
        ['layer', 'distance of centre', 'moved', 'spread', 'entropy', 'weight at tap', 'heads above 0.5']
    )
    for name in dict.fromkeys(row['layer'] for row in rows):
        heads = [row for row in rows if row['layer'] == name]
        middle = [median(hypot(*row['centre']) for row in heads)]
        middle += [median(row[key] for row in heads) for key in ('spread', 'entropy', 'tap_weight')]
        near = sum(row['tap_weight'] > 0.5 for row in heads)
        middle = [f'{value:.2f}' for value in middle]
        middle.insert(1, f'{moved[name]:.2f}' if name in moved else '-')
        table.add_row([name, *middle, f'{near} of {len(heads)}'])
    return table

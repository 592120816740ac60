"""Draws curves of training runs: one panel for each scalar, one line for each run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from ..engine.scalars import Run
from .figures import new_figure, save_figure

COLUMNS = 2
MARKED = 50  # curves with fewer points than this mark each of them


def draw_curves(file: Path, runs: Sequence[Run], keys: Sequence[str]) -> None:
    """Draw the scalars ``keys`` of all runs; the suffix of the file gives the format (.png, .svg, .pdf)."""
    columns = min(COLUMNS, len(keys))
    rows = -(-len(keys) // columns)
    figure = new_figure(5.5 * columns, 3.2 * rows + 0.3)
    colours = matplotlib.colormaps['tab10' if len(runs) <= 10 else 'tab20']
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    lines = {}
    for panel, key in zip(panels, keys, strict=False):
        for number, run in enumerate(runs):
            curve = run.curves.get(key)
            if curve:
                (lines[run.name],) = panel.plot(
                    curve.steps,
                    curve.values,
                    color=colours(number % colours.N),
                    marker='.' if len(curve.steps) < MARKED else None,
                    label=run.name,
                )
        panel.set(xlabel='iteration', ylabel=key)
        panel.grid(alpha=0.3)
    for panel in panels[len(keys) :]:
        panel.set_visible(False)
    figure.legend(handles=list(lines.values()), loc='outside lower center', ncols=min(len(lines), 3))
    save_figure(figure, file)

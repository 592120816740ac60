"""Matplotlib figures that need no window and leave matplotlib's state to others."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, file: Path) -> None:
    """Write a figure; the suffix says the format (.png, .svg, .pdf). Text in an SVG stays text."""
    with matplotlib.rc_context({'svg.fonttype': 'none'}):
        figure.savefig(file, dpi=120)

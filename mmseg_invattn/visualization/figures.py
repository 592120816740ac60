"""Matplotlib figures that need no window and leave matplotlib's state to others."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..engine.atomic_backend import whole_file


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, file: Path, dpi: int = 120) -> None:
    """Write a figure, whole or not at all; the suffix says the format (.png, .svg, .pdf). Text in an SVG stays text."""
    with matplotlib.rc_context({'svg.fonttype': 'none'}), whole_file(file) as partial:
        figure.savefig(partial, dpi=dpi)

"""Matplotlib figures that need no window and do not change matplotlib's global state."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..engine.atomic_backend import whole_file

DPI = 120
LEAST_WIDTH = 800  # pixels


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, file: Path | BinaryIO) -> None:
    """Write a figure, at least 800 pixels wide, on white, so that it is readable on a dark page too.

    Args:
        figure: a figure from :func:`new_figure`.
        file: a path, whose suffix gives the format (.png, .svg, .pdf), or an open file, which gets a PNG. A path is
            written whole or not at all. Text in an SVG stays text.
    """
    dpi = max(DPI, math.ceil(LEAST_WIDTH / figure.get_figwidth()))
    with (
        matplotlib.rc_context({'svg.fonttype': 'none'}),
        whole_file(file) if isinstance(file, str | Path) else nullcontext(file) as target,
    ):
        figure.savefig(target, dpi=dpi, facecolor='white')

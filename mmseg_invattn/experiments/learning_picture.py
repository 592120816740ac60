"""Draws how the mIoU rises while the demo task is learned: a panel for each mode, a line for each seed."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..visualization.svg import COLOURS, MUTED, STYLE, in_document
from .learning import Setting

COLUMNS = 2


def learning_picture(
    curves: dict[Setting, list], forms: Sequence[str], modes: Sequence[str], level: float, precision: str = 'float32'
) -> str:
    """The content of an SVG file.

    Args:
        curves: (iteration, mIoU) of each evaluation.
        forms: forms that are shown, each in its colour.
        modes: modes that are shown, each in its panel.
        level: mIoU at which a training ended, shown dashed.
        precision: the curves of this precision are shown.
    """
    rows = -(-len(modes) // COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 1.5 * rows + 0.4), layout='constrained')
        panels = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True, sharey=True).ravel()
        for panel, mode in zip(panels, modes, strict=False):
            panel.set_title(mode)
            panel.axhline(level, color=MUTED, linewidth=0.8, linestyle='--')
            for form, colour in zip(forms, COLOURS, strict=False):
                for setting, curve in curves.items():
                    if (setting.form, setting.mode, setting.precision) == (form, mode, precision):
                        _draw(panel, curve, colour)
        for panel in panels[len(modes) :]:
            panel.set_visible(False)
        for panel in panels[max(0, len(modes) - COLUMNS) : len(modes)]:
            panel.set_xlabel('iteration')
            panel.tick_params(labelbottom=True)
        for panel in panels[::COLUMNS]:
            panel.set_ylabel('mIoU, %')
        lines = [Line2D([], [], color=colour, label=form) for form, colour in zip(forms, COLOURS, strict=False)]
        figure.legend(handles=lines, loc='outside lower center', ncols=min(4, len(lines)))
        return in_document(figure)


def _draw(panel: Axes, curve: Sequence[tuple[int, float]], colour: str) -> None:
    """A line that ends in a dot, where the training ended."""
    steps, values = zip(*curve, strict=True)
    panel.plot(steps, values, color=colour, linewidth=0.9, alpha=0.8)
    panel.plot(steps[-1], values[-1], '.', color=colour, markersize=5)

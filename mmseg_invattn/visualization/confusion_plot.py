"""The confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import LogNorm

from ..evaluation.confusion import row_shares
from .figures import new_figure, save_figure

NUMBERED = 30  # up to this number of classes each cell shows its number


def draw_confusion(file: Path, matrix_KK: np.ndarray, classes: Sequence[str], counts: bool = False) -> None:
    """Draw a confusion matrix; rows are the ground truth.

    Args:
        file: Path of the picture; its suffix gives the format (.png, .svg, .pdf).
        matrix_KK: Counts.
        classes: Names of the classes.
        counts: True colours the cells by their pixels on a logarithmic scale, False by their share of the row, which on
            the diagonal is the recall.
    """
    many = len(classes)
    side = min(max(4.0, 0.45 * many), 24)
    figure = new_figure(side + 2, side + 1)
    axes = figure.subplots()
    values = matrix_KK.astype(float) if counts else 100 * row_shares(matrix_KK)
    top = max(np.nanmax(values, initial=1.0), 1.0)
    scale = dict(norm=LogNorm(1, max(top, 10))) if counts else dict(vmin=0, vmax=100)
    image = axes.imshow(np.where(values > 0, values, np.nan) if counts else values, cmap='Blues', **scale)
    axes.set_xticks(range(many), classes, rotation=90)
    axes.set_yticks(range(many), classes)
    axes.tick_params(labelsize=max(3, min(9, 400 / many)))
    axes.set(xlabel='prediction', ylabel='ground truth')
    figure.colorbar(image, label='pixels' if counts else '% of the pixels of a class (row)', shrink=0.8)
    if many <= NUMBERED:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value) and value >= (1 if counts else 0.05):
                text = f'{value:.0f}' if counts and value < 1e4 else f'{value:.1e}' if counts else f'{value:.1f}'
                axes.text(
                    j,
                    i,
                    text,
                    ha='center',
                    va='center',
                    fontsize=6,
                    color='white' if image.norm(value) > 0.6 else 'black',
                )
    save_figure(figure, file)

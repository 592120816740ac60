"""Pictures of the demo: what the models predict, and what the inverse of the attention recovers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.patches import Patch

from ..visualization.figures import new_figure, save_figure
from .demo import SHOWN
from .invert.figure import feature_colours

OVERVIEW = 'overview.png'
WIDTH = 12.0  # inches
INVERSE_WIDTHS = 1, 1, 1.2, 0.9  # of its columns, to each other


def draw(results: dict[str, dict], folder: Path) -> None:
    """A picture for each of the first validation images, and ``overview.png`` of one image of each class.

    Args:
        results: name of a model -> what :func:`.demo.evaluate` found.
        folder: where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    truths = next(iter(results.values()))['truths'][:SHOWN]
    for index in range(len(truths)):
        _draw(results, [index], folder / f'{index:04d}.png')
    _draw(results, one_of_each(truths), folder / OVERVIEW)


def one_of_each(truths: Sequence[np.ndarray]) -> list[int]:
    """The first image of each class that there is, background (0) aside; the first image where there is none."""
    classes = sorted({int(k) for truth in truths for k in np.unique(truth)} - {0})
    return sorted({next(i for i, truth in enumerate(truths) if (truth == k).any()) for k in classes}) or [0]


def _draw(results: dict[str, dict], indices: Sequence[int], file: Path) -> None:
    """Predictions above, the inverse of the model that has one below."""
    inverse = next((found for found in results.values() if 'inverted' in found), None)
    first = next(iter(results.values()))
    height, width = first['truths'][0].shape
    row = WIDTH / (2 + len(results)) * height / width
    heights = [(row + 0.15) * len(indices) + 0.75]
    if inverse:
        row = WIDTH / sum(INVERSE_WIDTHS) * height / width
        heights.append(max((row + 0.4) * len(indices) + 0.5, 3.0))
    figure = new_figure(WIDTH, sum(heights))
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_predictions(parts[0], results, indices)
    if inverse:
        _draw_inverse(parts[1], inverse, indices)
    save_figure(figure, file)


def _draw_predictions(part: SubFigure, results: dict[str, dict], indices: Sequence[int]) -> None:
    first = next(iter(results.values()))
    palette = np.array(first['palette'], np.uint8)
    columns = {'image': first['images'], 'ground truth': [palette[truth] for truth in first['truths'][:SHOWN]]}
    for name, found in results.items():
        columns[f'{name}: {found["miou"]:.1f} mIoU'] = [palette[label] for label in found['predictions'][:SHOWN]]
    part.suptitle('Segmentation: the colour of the far square decides the class of the shapes')
    grid = part.subplots(len(indices), len(columns), squeeze=False)
    for axes, (title, pictures) in zip(grid.T, columns.items(), strict=True):
        axes[0].set_title(title, fontsize=10)
        for axis, index in zip(axes, indices, strict=True):
            axis.imshow(pictures[index], interpolation='nearest')
            _frame(axis)
    shown = [
        Patch(facecolor=colour / 255, edgecolor='0.5', label=name)
        for name, colour in zip(first['classes'], palette, strict=True)
    ]
    part.legend(handles=shown, loc='outside lower center', ncols=len(shown), fontsize=9, frameon=False)


def _draw_inverse(part: SubFigure, found: dict, indices: Sequence[int]) -> None:
    part.suptitle('Inverse: the features in front of the attention, recovered from its output')
    grid = part.add_gridspec(len(indices), 4, width_ratios=INVERSE_WIDTHS)
    errors = [(recovered - seen).norm(dim=0).numpy() for seen, recovered in found['inverted']]
    top = max(float(errors[index].max()) for index in indices) or 1.0
    for row, index in enumerate(indices):
        seen, recovered = found['inverted'][index]
        before, after = (picture.numpy() for picture in feature_colours(seen[None], recovered[None]))
        axes = [part.add_subplot(grid[row, column]) for column in range(3)]
        axes[0].imshow(before, interpolation='nearest')
        axes[1].imshow(after, interpolation='nearest')
        shown = axes[2].imshow(errors[index], cmap='magma', vmin=0, vmax=top, interpolation='nearest')
        bar = part.colorbar(shown, ax=axes[2], format='%.1e')
        bar.set_label('norm over channels', fontsize=8)
        bar.ax.tick_params(labelsize=8)
        for axis, title in zip(axes, ('features (3 principal axes)', 'recovered', 'error of each pixel'), strict=True):
            _frame(axis)
            if row == 0:
                axis.set_title(title, fontsize=10)
        axes[2].set_xlabel(
            f'largest {found["errors"][index]:.1e}, certified bound {found["bounds"][index]:.1e}', fontsize=9
        )
    _draw_bounds(part.add_subplot(grid[:, 3]), found)


def _draw_bounds(axis: Axes, found: dict) -> None:
    """Error of every image against its certified bound."""
    tiny = np.finfo(np.float32).tiny
    errors, bounds = (np.maximum(found[key], tiny) for key in ('errors', 'bounds'))
    axis.loglog(errors, bounds, '.', color='#1b6ca8', markersize=4)
    low, high = min(errors.min(), bounds.min()) / 2, max(errors.max(), bounds.max()) * 2
    axis.plot([low, high], [low, high], '--', color='0.4', linewidth=1)
    axis.fill_between([low, high], [low, high], low, color='#b42318', alpha=0.12, linewidth=0)
    axis.text(high / 1.3, low * 1.4, 'error above its bound', ha='right', fontsize=8, color='#7a1810')
    axis.set(xlim=(low, high), ylim=(low, high))
    axis.set_xlabel('error', fontsize=9)
    axis.set_ylabel('certified bound', fontsize=9)
    axis.set_title(f'all {len(errors)} images', fontsize=10)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)


def _frame(axis: Axes) -> None:
    """No ticks, and a frame that is seen on any ground."""
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(color='0.5', linewidth=0.6)

"""Draws relative self-attention: where every head looks from one pixel, and how the centres move during training."""

import json
from pathlib import Path
from typing import BinaryIO

import matplotlib
import numpy as np
import torch
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, Rectangle
from matplotlib.ticker import MaxNLocator

from ...visualization.figures import new_figure, save_figure
from .relative_attention_report import AttentionLayer


def draw_probabilities(layers: list[AttentionLayer], query: tuple[int, int] | None, path: Path) -> None:
    """Draw the weights of every head (column) of every layer (row) for one query pixel, marked in black and white.

    Heads with content attend to the first image. All heads of a layer have the same scale, which is shown to the right
    of the row.

    Args:
        layers: layers of a model with their inputs.
        query: (row, column) on the feature map of the first layer, scaled to later ones; None for the middle.
        path: path of the PNG.

    Raises:
        ValueError: the query is not on the map.
    """
    first = tuple(layers[0].x.shape[2:])
    query = tuple(side // 2 for side in first) if query is None else query
    if not all(0 <= place < side for place, side in zip(query, first, strict=True)):
        raise ValueError(f'query={query} is not on the feature map of {first[0]} x {first[1]} pixels')
    columns = max(layer.module.num_heads for layer in layers)
    figure = new_figure(1.05 * columns + 1.3, 1.15 * len(layers) + 0.6)
    axes = figure.subplots(len(layers), columns, squeeze=False)
    figure.suptitle(
        f'Attention weights of the query at row {query[0] + 1}, column {query[1] + 1} (square)', fontsize=10
    )
    for row, (layer, line) in enumerate(zip(layers, axes, strict=True)):
        module, size = layer.module, tuple(layer.x.shape[2:])
        # a layer with a stride has no output at every pixel, so the nearest one is taken
        place = [min(p * n // f, n - 1) // module.stride for p, n, f in zip(query, size, first, strict=True)]
        index = torch.tensor([place[0] * -(-size[1] // module.stride) + place[1]])
        with torch.no_grad():
            p_GHW = module.attention_probabilities(layer.x[:1], index)[0, :, 0].unflatten(1, size).cpu().numpy()
        line[0].set_ylabel(f'layer {row + 1}', fontsize=9)
        for head, axis in enumerate(line):
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(f'head {head + 1}', fontsize=9)
            if head >= module.num_heads:
                axis.set_visible(False)
                continue
            shown = axis.imshow(p_GHW[head], cmap='viridis', vmin=0, vmax=p_GHW.max(), interpolation='nearest')
            corner = (place[1] * module.stride - 0.5, place[0] * module.stride - 0.5)
            axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor='white', linewidth=1.6))
            axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor='black', linewidth=0.8))
        bar = figure.colorbar(shown, ax=list(line), pad=0.01, aspect=10)
        bar.set_label('weight', fontsize=8)
        bar.ax.tick_params(labelsize=7)
    save_figure(figure, path)


def read_centres(path: Path) -> tuple[list[int], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Read a file of ``AttentionCentreHook``: iterations (T), and for each layer centres (T, heads, 2) and precisions.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a file of that hook.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f'{path}: there is no such file; AttentionCentreHook writes it into the work directory '
            'while a model with quadratic encodings trains'
        )
    try:
        lines = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
        names = list(lines[0]['layers'])
        centres, precisions = (
            {name: np.array([line['layers'][name][key] for line in lines], float) for name in names}
            for key in ('centre', 'precision')
        )
        return [line['iteration'] for line in lines], centres, precisions
    except (json.JSONDecodeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f'{path} is not a file of AttentionCentreHook ({type(error).__name__}: {error})') from error


def draw_centres(source: Path, target: Path | BinaryIO, moments: int = 5) -> None:
    """Draw attention centres over training: a row for each layer, a column for each moment up to the end.

    A head is a dot at its centre, in pixels from the query in the middle. It has an ellipse of one standard deviation
    of its weights, and the path of its centre up to that moment.

    Args:
        source: file of ``AttentionCentreHook``.
        target: path of the PNG.
        moments: number of moments.
    """
    iterations, centres, precisions = read_centres(source)
    chosen = np.unique(np.linspace(0, len(iterations) - 1, moments).round().astype(int))
    reach = 1.3 * max(np.abs(c).max() for c in centres.values()) + 1
    figure = new_figure(1.5 * len(chosen) + 1.5, 1.5 * len(centres) + 0.7)
    axes = figure.subplots(len(centres), len(chosen), squeeze=False, sharex=True, sharey=True)
    heads = max(c.shape[1] for c in centres.values())
    colours = matplotlib.colormaps['tab10' if heads <= 10 else 'tab20'].colors
    for row, (name, line) in enumerate(zip(centres, axes, strict=True)):
        for axis, moment in zip(line, chosen, strict=True):
            axis.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect='equal')
            axis.tick_params(labelsize=7)
            for side in (axis.xaxis, axis.yaxis):  # the same numbers on both
                side.set_major_locator(MaxNLocator(4, integer=True))
            axis.axhline(0, color='0.85', linewidth=0.6, zorder=0)
            axis.axvline(0, color='0.85', linewidth=0.6, zorder=0)
            for head, (y, x) in enumerate(centres[name][moment]):
                colour = colours[head % len(colours)]
                values, vectors = np.linalg.eigh(precisions[name][moment, head])
                long, short = np.maximum(values, 1e-12) ** -0.5
                angle = np.degrees(np.arctan2(vectors[0, 0], vectors[1, 0]))  # angle of the long axis, from x towards y
                axis.add_patch(Ellipse((x, y), 2 * long, 2 * short, angle=angle, color=colour, alpha=0.15))
                way = centres[name][: moment + 1, head]
                axis.plot(way[:, 1], way[:, 0], color=colour, linewidth=0.7)
                axis.plot(x, y, 'o', color=colour, markersize=2.5)
            if row == 0:
                axis.set_title(f'iteration {iterations[moment]}', fontsize=9)
        line[0].set_ylabel(f'layer {row + 1}', fontsize=9)
    figure.supxlabel('columns from the query, pixels of the feature map', fontsize=9)
    figure.supylabel('rows from the query, pixels of the feature map', fontsize=9)
    names = [
        Line2D([], [], marker='o', linestyle='', markersize=4, color=colours[h % len(colours)]) for h in range(heads)
    ]
    figure.legend(
        names, [f'head {head + 1}' for head in range(heads)], loc='outside right center', fontsize=8, frameon=False
    )
    save_figure(figure, target)

"""Charts as SVG. Those of the report take the colours of the page; the file for documents suits light and dark ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...visualization.svg import ACCENT, COLOURS, INK, MUTED, SECOND, STYLE, in_document, in_page

SMOOTHED = 25  # number of neighbouring points of a loss that are averaged
FAR = 10  # a difference that is so many times larger than those of the other heads is told as a number
DASHES = ('solid', 'dashed', 'dotted')  # the first for as many heads as there are colours, and so on
CURVES = dict(miou='validation mIoU, %', loss='training loss')


def differences(heads: Sequence[dict], baseline: str, margin: float | None = None) -> str:
    """Draw the difference of the mIoU to the baseline with its interval, that of every seed, and the margin."""
    rows = _compared(heads)
    if not rows:
        return ''
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.7, _height(rows)), layout='constrained')
        _draw_differences(figure.subplots(), rows, baseline, margin)
        return in_page(figure, f'Difference of the mIoU to {baseline}')


def picture(heads: Sequence[dict], baseline: str, margin: float | None = None) -> str:
    """The content of an SVG file: the differences, below them the curves of all heads; empty if there are neither."""
    rows, trained = _compared(heads), _trained(heads)
    curves = [key for key in CURVES if any(len(_mean_curve(head, key)[0]) > 1 for head in trained)]
    heights = [_height(rows)] * bool(rows) + [2.2] * len(curves)
    if not heights:
        return ''
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, sum(heights) + 0.25 * math.ceil(len(trained) / 3)), layout='constrained')
        axes = list(figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
        if rows:
            _draw_differences(axes.pop(0), rows, baseline, margin)
        for axis, key in zip(axes, curves, strict=True):
            _draw_together(axis, trained, key)
        if axes:
            figure.legend(handles=axes[0].lines, loc='outside lower center', ncols=min(3, len(trained)))
        return in_document(figure)


def all_curves(heads: Sequence[dict]) -> dict:
    """Draw all heads together, each as the mean over its seeds.

    Returns:
        ``charts``, an SVG of the mIoU and one of the loss, and ``legend``: ``label``, ``colour`` and ``dash`` of each
        head; both are empty if nothing was trained.
    """
    trained = _trained(heads)
    legend = [_style(number, head) for number, head in enumerate(trained)]
    charts = []
    for key, title in CURVES.items() if trained else ():
        with matplotlib.rc_context(STYLE | {'font.size': 9}):
            figure = Figure(figsize=(4.4, 2.6), layout='constrained')
            _draw_together(figure.subplots(), trained, key)
            charts.append(in_page(figure, f'{title} of all heads'))
    return dict(charts=charts, legend=legend)


def learning_curves(heads: Sequence[dict]) -> list[dict]:
    """Draw a panel for each head: its curves in its colour, those of the others in grey. ``label`` and ``svg``."""
    trained = _trained(heads)
    panels = []
    for number, head in enumerate(trained):
        style = _style(number, head)
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(4.2, 1.9), layout='constrained')
            for axis, key in zip(figure.subplots(1, 2), CURVES, strict=True):
                for other in trained:
                    _draw(axis, other, key, dict(color=MUTED, alpha=0.4, linewidth=0.7))
                _draw(axis, head, key, dict(color=style['colour'], linestyle=style['dash'], linewidth=1.4))
                _label(axis, key, _top(trained))
            panels.append(dict(label=head['label'], svg=in_page(figure, f'Learning curves of {head["label"]}')))
    return panels


def _compared(heads: Sequence[dict]) -> list[dict]:
    return [head for head in heads if head['difference'] is not None]


def _height(rows: Sequence[dict]) -> float:
    return 0.6 + 0.24 * len(rows)


def _draw_differences(axis: Axes, rows: Sequence[dict], baseline: str, margin: float | None) -> None:
    axis.axvline(0, color=MUTED, linewidth=1)
    if margin is not None:
        axis.axvline(-margin, color=SECOND, linewidth=1, linestyle='--')
    far, limits = _far(rows, margin)
    for y, head in enumerate(reversed(rows)):
        found = head['difference']
        if head['name'] in far:
            left = found['mean'] < 0
            text = f'◂ {found["mean"]:+.1f}' if left else f'{found["mean"]:+.1f} ▸'
            place = dict(ha='left' if left else 'right', va='center', transform=axis.get_yaxis_transform())
            axis.text(0.01 if left else 0.99, y, text, color=ACCENT, **place)
            continue
        if found['low'] is not None:
            axis.plot([found['low'], found['high']], [y, y], color=ACCENT, linewidth=2, solid_capstyle='round')
        seeds = list(found['per_seed'].values())
        if len(seeds) > 1:
            axis.plot(seeds, [y] * len(seeds), '|', color=MUTED, markersize=8)
        axis.plot(found['mean'], y, 'o', color=ACCENT, markersize=6)
    axis.set_yticks(range(len(rows)), [head['label'] for head in reversed(rows)])
    axis.tick_params(axis='y', length=0, labelcolor=INK)
    axis.grid(axis='y', visible=False)
    axis.spines['left'].set_visible(False)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    if far:
        axis.set_xlim(limits)
    axis.set_xlabel(f'mIoU, difference to {baseline} in percentage points')


def _far(rows: Sequence[dict], margin: float | None) -> tuple[set[str], tuple[float, float]]:
    """Heads so far from the baseline that the others would not be visible beside them, and the limits without them."""
    values = {}
    for head in rows:
        found = head['difference']
        ends = [found['mean'], found['low'], found['high'], *found['per_seed'].values()]
        values[head['name']] = [value for value in ends if value is not None]
    reach = {name: max(map(abs, own)) for name, own in values.items()}
    near = FAR * max(np.quantile(list(reach.values()), 0.25, method='lower'), margin or 0.5)
    shown = [0.0, -(margin or 0.0), *(value for name, own in values.items() if reach[name] <= near for value in own)]
    edge = 0.08 * (max(shown) - min(shown))
    return {name for name in reach if reach[name] > near}, (min(shown) - edge, max(shown) + edge)


def _draw_together(axis: Axes, trained: Sequence[dict], key: str) -> None:
    for number, head in enumerate(trained):
        style = _style(number, head)
        steps, values = _mean_curve(head, key)
        marker = '.' if len(steps) < 3 else None
        drawn = dict(label=style['label'], color=style['colour'], linestyle=style['dash'], marker=marker)
        axis.plot(steps, values, linewidth=1.5, **drawn)
    _label(axis, key, _top(trained))


def _trained(heads: Sequence[dict]) -> list[dict]:
    return [head for head in heads if any(run['curves']['loss']['steps'] for run in head['runs'])]


def _style(number: int, head: dict) -> dict:
    """Label, colour and dash of a head, the same in all charts."""
    dash = DASHES[number // len(COLOURS) % len(DASHES)]
    return dict(label=head['label'], colour=COLOURS[number % len(COLOURS)], dash=dash)


def _top(trained: Sequence[dict]) -> float:
    """End of the axis of the losses, below which nearly all of them lie."""
    losses = [value for head in trained for run in head['runs'] for value in _smoothed(run['curves']['loss'])[1]]
    return float(np.quantile(losses, 0.98)) * 1.05 if losses else 1.0


def _label(axis: Axes, key: str, top: float) -> None:
    axis.set(xlabel='iteration', ylabel=CURVES[key])
    axis.set_xlim(left=0)
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(3))
    axis.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(_thousands))
    if key == 'loss':
        axis.set_ylim(0, top)


def _mean_curve(head: dict, key: str) -> tuple[list[float], list[float]]:
    """Steps at which every seed with a curve has a value, and the means of these values."""
    by_step: dict[float, list[float]] = {}
    curves = [run['curves'][key] for run in head['runs'] if run['curves'][key]['steps']]
    for curve in curves:
        for step, value in zip(
            *(_smoothed(curve) if key == 'loss' else (curve['steps'], curve['values'])), strict=True
        ):
            by_step.setdefault(float(step), []).append(float(value))
    steps = sorted(step for step, values in by_step.items() if len(values) == len(curves))
    return steps, [float(np.mean(by_step[step])) for step in steps]


def _draw(axis: Axes, head: dict, key: str, style: dict) -> None:
    for run in head['runs']:
        curve = run['curves'][key]
        steps, values = _smoothed(curve) if key == 'loss' else (curve['steps'], curve['values'])
        if len(steps):
            axis.plot(steps, values, **style, marker='.' if len(steps) < 3 else None)


def _smoothed(curve: dict) -> tuple[Sequence[float], Sequence[float]]:
    """Steps and values as means over neighbouring points, over at most a tenth of the curve."""
    width = max(1, min(SMOOTHED, len(curve['steps']) // 10))
    if width == 1:
        return curve['steps'], curve['values']
    kernel = np.full(width, 1 / width)
    return np.convolve(curve['steps'], kernel, 'valid'), np.convolve(curve['values'], kernel, 'valid')


def _thousands(value: float, _: int) -> str:
    return f'{value / 1000:g}k' if value >= 1000 else f'{value:g}'

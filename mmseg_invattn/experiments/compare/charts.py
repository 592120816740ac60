"""Charts as SVG that takes the colours of the page, so that it follows a dark mode."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours that stand for variables of the page.
INK, MUTED, FAINT, ACCENT, SECOND = '#010101', '#020202', '#030303', '#040404', '#050505'
VARIABLES = {INK: '--ink', MUTED: '--muted', FAINT: '--line', ACCENT: '--accent', SECOND: '--second'}
STYLE = {
    'svg.fonttype': 'none',
    'font.size': 8.5,
    'axes.edgecolor': FAINT,
    'axes.labelcolor': MUTED,
    'text.color': INK,
    'xtick.color': FAINT,
    'xtick.labelcolor': MUTED,
    'ytick.color': FAINT,
    'ytick.labelcolor': MUTED,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.color': FAINT,
    'grid.linewidth': 0.6,
    'axes.axisbelow': True,
    'axes.titlesize': 8.5,
    'axes.titlelocation': 'left',
}
SMOOTHED = 25  # points of a loss that are averaged
_numbers = itertools.count()


def differences(heads: Sequence[dict], baseline: str, margin: float | None = None) -> str:
    """Difference of the mIoU to the baseline, with its interval, the difference of every seed, and the margin."""
    rows = [head for head in heads if head['difference'] is not None]
    if not rows:
        return ''
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 0.6 + 0.24 * len(rows)), layout='constrained')
        axis = figure.subplots()
        axis.axvline(0, color=MUTED, linewidth=1)
        if margin is not None:
            axis.axvline(-margin, color=SECOND, linewidth=1, linestyle='--')
        for y, head in enumerate(reversed(rows)):
            found = head['difference']
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
        axis.set_xlabel(f'mIoU, difference to {baseline} in percentage points')
        return _svg(figure, f'Difference of the mIoU to {baseline}')


def learning_curves(heads: Sequence[dict]) -> list[dict]:
    """A panel for each head: its own curves in colour, those of all others behind it. ``label`` and ``svg``."""
    trained = [head for head in heads if any(run['curves']['loss']['steps'] for run in head['runs'])]
    losses = [value for head in trained for run in head['runs'] for value in _smoothed(run['curves']['loss'])[1]]
    top = float(np.quantile(losses, 0.98)) * 1.05 if losses else 1.0
    panels = []
    for head in trained:
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(3.9, 1.7), layout='constrained')
            for axis, key, title in zip(
                figure.subplots(1, 2), ('miou', 'loss'), ('validation mIoU', 'training loss'), strict=True
            ):
                for other in trained:
                    _draw(axis, other, key, dict(color=FAINT, linewidth=0.8))
                _draw(axis, head, key, dict(color=ACCENT if key == 'miou' else SECOND, linewidth=1.4))
                axis.set_title(title, color=MUTED)
                axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(3))
                axis.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(_thousands))
                if key == 'loss':
                    axis.set_ylim(0, top)
            panels.append(dict(label=head['label'], svg=_svg(figure, f'Learning curves of {head["label"]}')))
    return panels


def _draw(axis: Axes, head: dict, key: str, style: dict) -> None:
    for run in head['runs']:
        curve = run['curves'][key]
        steps, values = _smoothed(curve) if key == 'loss' else (curve['steps'], curve['values'])
        if len(steps):
            axis.plot(steps, values, **style, marker='.' if len(steps) < 3 else None)


def _smoothed(curve: dict) -> tuple[Sequence[float], Sequence[float]]:
    """Steps and values as means over neighbours, at most a tenth of the curve."""
    width = max(1, min(SMOOTHED, len(curve['steps']) // 10))
    if width == 1:
        return curve['steps'], curve['values']
    kernel = np.full(width, 1 / width)
    return np.convolve(curve['steps'], kernel, 'valid'), np.convolve(curve['values'], kernel, 'valid')


def _thousands(value: float, _: int) -> str:
    return f'{value / 1000:g}k' if value >= 1000 else f'{value:g}'


def _svg(figure: Figure, title: str) -> str:
    """Inline SVG: no fixed size, names of its own, the page's colours and font."""
    buffer = io.StringIO()
    with matplotlib.rc_context({'svg.hashsalt': f'chart{next(_numbers)}'}):
        figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
    text = buffer.getvalue()
    text = text[text.index('<svg') :]
    text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
    text = re.sub(
        r'(<svg [^>]*?) width="[^"]*"', r'\1', re.sub(r'(<svg [^>]*?) height="[^"]*"', r'\1', text, count=1), count=1
    )
    text = re.sub(r'font: ([\d.]+)px [^;\"]*', r'font-size: \1px; font-family: inherit', text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f'var({variable})')
    return text.replace('<svg ', f'<svg role="img" aria-label="{title}" ', 1)

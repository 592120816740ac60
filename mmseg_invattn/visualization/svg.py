"""Figures as SVG text: for a page, whose colours and font they take, or for a document, whose background is unknown."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping

import matplotlib
from matplotlib.figure import Figure

# Placeholder colours, which are replaced by variables of the page, or by colours that suit every page.
INK, MUTED, FAINT, ACCENT, SECOND = '#010101', '#020202', '#030303', '#040404', '#050505'
OF_THE_PAGE = {
    INK: 'var(--ink)',
    MUTED: 'var(--muted)',
    FAINT: 'var(--line)',
    ACCENT: 'var(--accent)',
    SECOND: 'var(--second)',
}
ON_ANY_PAGE = {INK: '#808890', MUTED: '#808890', FAINT: 'rgb(128 136 144 / 40%)', ACCENT: '#2f7de1', SECOND: '#d9541e'}
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
    'legend.frameon': False,
}
# Colours of lines, readable on light and dark pages.
COLOURS = ('#2f7de1', '#d9541e', '#2a9a4c', '#b558d6', '#b07d00', '#0e93a0', '#e0457b', '#7a7f87')
_numbers = itertools.count()


def in_document(figure: Figure) -> str:
    """The content of an SVG file that is readable on light and dark pages; the same figure gives the same text."""
    return _svg(figure, 'picture', ON_ANY_PAGE, 'system-ui, sans-serif')


def in_page(figure: Figure, title: str) -> str:
    """SVG for an HTML page, without a fixed size, and with the page's colours and font."""
    text = _svg(figure, f'chart{next(_numbers)}', OF_THE_PAGE, 'inherit')
    text = re.sub(r'(<svg [^>]*?) height="[^"]*"', r'\1', text, count=1)
    text = re.sub(r'(<svg [^>]*?) width="[^"]*"', r'\1', text, count=1)
    return text.replace('<svg ', f'<svg role="img" aria-label="{title}" ', 1)


def _svg(figure: Figure, salt: str, colours: Mapping[str, str], font: str) -> str:
    """SVG with these colours in place of the placeholders, and with ids that are unique if the salt is."""
    buffer = io.StringIO()
    with matplotlib.rc_context({'svg.hashsalt': salt}):
        figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
    text = buffer.getvalue()
    text = re.sub(r'<metadata>.*?</metadata>', '', text[text.index('<svg') :], flags=re.DOTALL)
    for placeholder, colour in colours.items():
        text = text.replace(placeholder, colour)
    return re.sub(r'font: ([\d.]+)px [^;\"]*', rf'font-size: \1px; font-family: {font}', text)

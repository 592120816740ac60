"""Draws the certified gain of an attention branch against its sharpness, as an SVG without a plotting library.

The gain is the factor that brings the Lipschitz constant of a weighted mean of unit values to 0.9.
"""

import math
from collections.abc import Callable

from ..layers.attention.modes.l2 import phi

CONTRACTION = 0.9
N = 8192  # pixels of a 512 x 1024 crop at stride 8
SHARPNESS = [10 ** (-1 + 2.2 * i / 80) for i in range(81)]
LEFT, TOP, WIDTH, HEIGHT = 70, 24, 560, 380
GAINS = (1e-4, 1.0)

# Bound of the Lipschitz constant at gain 1, as a function of the sharpness s.
CURVES: list[tuple[str, str, str, Callable[[float], float]]] = [
    ('softmax, this project (any N)', '#1b6ca8', '', lambda s: s + math.sqrt(1 + s * s)),
    ('dot product ELU+1, this project (any N)', '#3a9d5d', '', lambda s: s + math.sqrt(1 + s + s * s)),
    (
        'l2, this project (N = 8192)',
        '#8e5ea2',
        '',
        lambda s: min(s + math.sqrt(1 + s / 4 + 64 * s * s / 27), 1 + 4 * math.sqrt(s * phi(N) / 2)),
    ),
    ('conditional form (any N)', '#e08e0b', '', lambda s: 1.0),
    (
        'Frobenius norm, logits in [-s, s], N = 8192',
        '#777777',
        '6 3',
        lambda s: s + math.sqrt(min(N, math.exp(2 * s)) * (1 + s * s)),
    ),
    ('Frobenius norm, any softmax that can single out a pixel: at best this', '#b03a2e', '6 3', lambda s: math.sqrt(N)),
    ('Kim et al., L2 attention, l2 norm, N = 8192', '#000000', '6 3', lambda s: math.sqrt(N) * (4 * phi(N) + 1)),
]


def place(sharpness: float, gain: float) -> tuple[float, float]:
    """The point in the picture; both axes are logarithmic."""
    x = math.log(sharpness / SHARPNESS[0]) / math.log(SHARPNESS[-1] / SHARPNESS[0])
    y = math.log(GAINS[1] / gain) / math.log(GAINS[1] / GAINS[0])
    return LEFT + x * WIDTH, TOP + y * HEIGHT


def draw_gain() -> str:
    """The picture as SVG text."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {TOP + HEIGHT + 210}" '
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for gain, text in ((1.0, '1'), (0.1, '0.1'), (0.01, '0.01'), (1e-3, '0.001'), (1e-4, '0.0001')):
        _, y = place(1, gain)
        parts += [
            f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>',
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>',
        ]
    for sharpness in (0.1, 0.3, 1, 3, 10):
        x, _ = place(sharpness, 1)
        parts += [
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + HEIGHT}" stroke="#ddd"/>',
            f'<text x="{x:.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{sharpness}</text>',
        ]
    parts += [
        f'<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 38}" text-anchor="middle">sharpness s: largest content '
        'logit</text>',
        f'<text transform="translate(18 {TOP + HEIGHT / 2}) rotate(-90)" text-anchor="middle">certified gain at '
        'L = 0.9</text>',
    ]
    for row, (name, colour, dashes, bound) in enumerate(CURVES):
        points = ' '.join(
            '{:.1f},{:.1f}'.format(*place(s, CONTRACTION / bound(s)))
            for s in SHARPNESS
            if CONTRACTION / bound(s) >= GAINS[0]
        )
        y = TOP + HEIGHT + 64 + 20 * row
        style = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}" fill="none"'
        parts += [
            f'<polyline points="{points}" {style}/>',
            f'<line x1="{LEFT}" x2="{LEFT + 40}" y1="{y - 4}" y2="{y - 4}" {style}/>',
            f'<text x="{LEFT + 50}" y="{y}">{name}</text>',
        ]
    return '\n'.join([*parts, '</svg>', ''])

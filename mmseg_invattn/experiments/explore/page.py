"""The page of tools/explore_attention.py: hover over a pixel to see where every head of every attention block looks.

It is one self-contained file with the picture, queries and keys, and a script that computes weights from them.
"""

import base64
import html
import json
from pathlib import Path
from string import Template

import cv2
import numpy as np
from torch import nn

from .attention_adapters import channel_attention_blocks
from .attention_packing import PackedView, coarser, pack
from .attention_view import AttentionView

FOLDER = Path(__file__).parent / 'assets'
MAX_BYTES = 5_000_000  # of the page
ROOM_FOR_NOTES = 1_000  # bytes for the notes about the numbers, with 100 more for each block
MAX_SIDE = 1600  # pixels of the picture in the page
MAX_LOSSLESS = 300_000  # bytes of a picture that is kept as PNG


def make_page(
    picture: np.ndarray,
    views: list[tuple[str, AttentionView]],
    title: str,
    notes: list[str],
    max_bytes: int = MAX_BYTES,
    centres: bytes | None = None,
) -> str:
    """The page.

    Args:
        picture: uint8 RGB, (H, W, 3).
        views: result of :func:`attention_views`.
        title: line under the headline.
        notes: sentences for the foot of the page.
        max_bytes: largest size. The page has the first of these forms that fits: 16 bits per number, 8 bits if the
            scores stay accurate, the same on a grid of blocks of 2 x 2 pixels, of 4 x 4 pixels, and so on.
        centres: PNG of the attention centres over training, for quadratic encodings.

    Raises:
        ValueError: even the coarsest grid does not fit.
    """
    picture = picture_url(picture)
    largest = max(max(view.size) for _, view in views)
    factor = 1
    while factor < 2 * largest:
        for bits in (16, 8):
            packed = [(name, pack(coarser(view, factor), bits)) for name, view in views]
            blocks = [dict(name=name, **p.to_json()) for name, p in packed]
            empty = _fill(picture, blocks, title, notes, centres)
            if len(empty.encode()) + ROOM_FOR_NOTES + 100 * len(blocks) > max_bytes:
                continue
            if bits == 16 or all(p.error <= p.limit for _, p in packed):
                return _fill(picture, blocks, title, notes + describe(packed, factor, bits), centres)
        factor *= 2
    raise ValueError(
        f'the page of {len(views)} attention blocks does not fit into {max_bytes:,} bytes even on the '
        'coarsest grid: give a smaller image'
    )


def describe(packed: list[tuple[str, PackedView]], factor: int, bits: int) -> list[str]:
    """The notes about the numbers in the page."""
    notes = [
        f'This page computes the weights from queries and keys in {bits} bits; the scores of '
        + '; '.join(f'{name} are within {p.error:.1g} of the exact ones' for name, p in packed)
        + '.'
    ]
    if factor > 1:
        notes.append(
            f'APPROXIMATE: so that the page stays small, queries and keys are means over blocks of {factor} x '
            f'{factor} pixels of the feature map. The model itself attends from pixel to pixel.'
        )
    if any(p.view.kernel in ('mean', 'elu') for _, p in packed):
        notes.append(
            'Some weights may be negative: warm colours are positive and cold ones negative, and the two ends '
            'of the scale are equally far from zero.'
        )
    if any(len(p.view.key_cells) > 1 or p.view.key_cells[0] != p.view.query_cells for _, p in packed):
        notes.append('If keys are pooled, the weight of a key is distributed evenly over the pixels that it pools.')
    return notes


def channel_notes(model: nn.Module) -> list[str]:
    """The note about attention that is not shown."""
    names = channel_attention_blocks(model)
    return [f'Not shown: {", ".join(names)}, because attention over channels does not look at pixels.'] if names else []


def picture_url(picture: np.ndarray) -> str:
    """The picture as a data URL: PNG if that is small, otherwise JPEG."""
    scale = MAX_SIDE / max(picture.shape[:2])
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    for kind, options in (('png', []), ('jpeg', [cv2.IMWRITE_JPEG_QUALITY, 85])):
        code = cv2.imencode(f'.{kind}', picture[..., ::-1], options)[1].tobytes()
        if len(code) <= MAX_LOSSLESS:
            break
    return f'data:image/{kind};base64,{base64.b64encode(code).decode()}'


def _fill(picture: str, blocks: list[dict], title: str, notes: list[str], centres: bytes | None) -> str:
    data = json.dumps(dict(picture=picture, blocks=blocks, notes=notes)).replace('<', '\\u003c')
    style, weights, page = (_read(name) for name in ('style.css', 'attention.js', 'page.js'))
    section = '' if centres is None else Template(_read('centres.html')).substitute(image=_png_url(centres))
    return Template(_read('page.html')).substitute(
        title=html.escape(title), style=style, data=data, centres=section, script=weights + page
    )


def _png_url(png: bytes) -> str:
    return f'data:image/png;base64,{base64.b64encode(png).decode()}'


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding='utf-8')

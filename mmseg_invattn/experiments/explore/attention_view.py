"""Attention in a form that is small enough for a web page: queries, keys, and the formula of the weights.

For a query i and the keys j of a head, with c_j the number of keys that a key represents (1 except on a coarser grid),

    product   t_ij = q_i . k_j + b_j        sum   t_ij = q_i + k_j          (one number each)
    softmax   w_ij = c_j exp(t_ij + beta_ij) / sum_j ...
    elu1      w_ij = c_j (ELU(t_ij) + 1) exp(beta_ij) / sum_j ...
    elu       w_ij = c_j ELU(t_ij) / sum_j ...                              (may be negative)
    mean      w_ij = c_j t_ij / sum_j c_j                                   (may be negative)
    relu      w_ij = c_j max(t_ij, 0) / sum_j c_j

times a factor of the block. ``assets/attention.js`` computes the same in the page: change both together.

Shape suffixes: H heads, N queries, M keys, D query and key size; the last 2 of coordinates are (row, column).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...ops.attention.positive import log_elu1

Span = tuple[int, int]  # first row or column of a cell, and the one after its last


class Cells(NamedTuple):
    """A grid of rectangles on the feature map, row by row. The rectangles of a pyramid may overlap."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    def count(self) -> int:
        return len(self.rows) * len(self.columns)

    def centres(self) -> Tensor:
        """Means of the pixels' coordinates, (cells, 2)."""
        axes = [torch.tensor([(first + last - 1) / 2 for first, last in spans]) for spans in self]
        return torch.stack(torch.meshgrid(*axes, indexing='ij'), -1).reshape(-1, 2)

    def areas(self) -> Tensor:
        """Pixels of each cell, (cells, )."""
        rows, columns = (torch.tensor([float(last - first) for first, last in spans]) for spans in self)
        return (rows[:, None] * columns).flatten()


def cells(size: tuple[int, int], pooling: int | tuple[int, ...] | None = None) -> tuple[Cells, ...]:
    """The cells over which :func:`~mmseg_invattn.ops.attention.pool_tokens` takes means, in the order of its keys."""
    if pooling is None or isinstance(pooling, int):
        step = pooling or 1
        return (Cells(*(tuple((i, min(i + step, n)) for i in range(0, n, step)) for n in size)),)
    return tuple(
        Cells(*(tuple((i * n // bins, -(-(i + 1) * n // bins)) for i in range(bins)) for n in size)) for bins in pooling
    )


@dataclass(frozen=True)
class AttentionView:
    """The attention of a block on one image.

    Attributes:
        title: description for readers.
        size: (H, W) of the feature map.
        query_HND: queries, multiplied by all scales.
        key_HMD: keys.
        score: ``'product'`` or ``'sum'``.
        kernel: ``'softmax'``, ``'elu1'``, ``'elu'``, ``'mean'`` or ``'relu'``.
        query_cells: the part of the feature map that each query represents.
        key_cells: the parts that the keys represent, grid after grid.
        key_bias_HM: b, or None.
        key_count_M: c, or None for ones.
        position: gives beta from coordinates, or None.
        neighbourhood: which keys a query sees: ``'full'``, ``'criss_cross'`` or ``'window'``.
        window: side of the windows, and the number of pixels by which they are shifted.
        factor: factor of all weights.
        sharpness_H: the largest size that a content score of each head can have, if the block sets it.
        saturation: share of the tokens that the ball of the scores saturates, if there is a ball.
    """

    title: str
    size: tuple[int, int]
    query_HND: Tensor
    key_HMD: Tensor
    score: str
    kernel: str
    query_cells: Cells
    key_cells: tuple[Cells, ...]
    key_bias_HM: Tensor | None = None
    key_count_M: Tensor | None = None
    position: nn.Module | None = None
    neighbourhood: str = 'full'
    window: tuple[int, int] = (1, 0)
    factor: float = 1.0
    sharpness_H: tuple[float, ...] | None = None
    saturation: float | None = None

    @property
    def heads(self) -> int:
        return len(self.query_HND)


def scores(view: AttentionView, query: int) -> Tensor:
    """``t`` of one query, (H, M)."""
    q_HD = view.query_HND[:, query]
    if view.score == 'sum':
        t_HM = q_HD + view.key_HMD[..., 0]
    else:
        t_HM = (view.key_HMD @ q_HD[..., None])[..., 0]
    return t_HM if view.key_bias_HM is None else t_HM + view.key_bias_HM


def visible(view: AttentionView, query: int) -> Tensor:
    """Whether the query sees a key, (M, )."""
    key_M2 = torch.cat([grid.centres() for grid in view.key_cells])
    centre_2 = view.query_cells.centres()[query]
    if view.neighbourhood == 'criss_cross':
        return (key_M2 == centre_2).any(1)
    if view.neighbourhood == 'window':
        window, shift = view.window
        return (((key_M2 - shift) / window).floor() == ((centre_2 - shift) / window).floor()).all(1)
    return torch.ones(len(key_M2), dtype=torch.bool)


@torch.no_grad()
def weights(view: AttentionView, query: int) -> Tensor:
    """Weights of all keys for one query, (H, M)."""
    t_HM = scores(view, query)
    count_M = torch.ones_like(t_HM[0]) if view.key_count_M is None else view.key_count_M.to(t_HM.dtype)
    if view.kernel in ('softmax', 'elu1'):
        log_w_HM = (log_elu1(t_HM) if view.kernel == 'elu1' else t_HM) + count_M.log()
        if view.position is not None:
            centre_12 = view.query_cells.centres()[query : query + 1]
            key_M2 = torch.cat([grid.centres() for grid in view.key_cells])
            log_w_HM = log_w_HM + view.position(centre_12, key_M2)[:, 0].to(t_HM.dtype)
        return view.factor * log_w_HM.masked_fill(~visible(view, query), -torch.inf).softmax(-1)
    if view.kernel == 'elu':
        w_HM = count_M * F.elu(t_HM)
        return view.factor * w_HM / w_HM.sum(-1, keepdim=True)
    return view.factor * count_M * (t_HM.relu() if view.kernel == 'relu' else t_HM) / count_M.sum()


def paint(view: AttentionView, weights_HM: Tensor) -> Tensor:
    """Distributes the weights of keys over the pixels that they pool, (H, rows, columns) of the feature map."""
    out_HHW = weights_HM.new_zeros(len(weights_HM), *view.size)
    start = 0
    for grid in view.key_cells:
        each_HM = weights_HM[:, start : start + grid.count()] / grid.areas().to(weights_HM.dtype)
        each = each_HM.unflatten(1, (len(grid.rows), len(grid.columns)))
        for i, rows in enumerate(grid.rows):
            for j, columns in enumerate(grid.columns):
                out_HHW[:, slice(*rows), slice(*columns)] += each[:, i, j, None, None]
        start += grid.count()
    return out_HHW

"""Attention over a part of the pixels: the row and the column of a pixel (criss-cross), or a window.

The certificate holds for any set of attended pixels, so it does not change. The set of a query always includes the
query itself.

Shape suffixes: B batch, G heads, N = H W pixels, H rows, W columns, D query and key size, E value size, P pixels of a
window, K windows.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def criss_cross_weights(
    log_weights: Callable[[Tensor, Tensor], Tensor],
    q_BGND: Tensor,
    k_BGND: Tensor,
    size: tuple[int, int],
    row_logits_GWW: Tensor | None = None,
    column_logits_GHH: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Weights of each pixel over its row and its column, as in CCNet (https://arxiv.org/abs/1811.11721).

    The pixel itself belongs to both and counts once, in its row.

    Returns:
        ``(row_BGHWW, column_BGWHH)``; the weights of a pixel over its row and over its column together sum to 1.
    """
    height, width = size
    q_BGHWD, k_BGHWD = q_BGND.unflatten(2, size), k_BGND.unflatten(2, size)
    row = log_weights(q_BGHWD, k_BGHWD)
    column = log_weights(q_BGHWD.transpose(2, 3), k_BGHWD.transpose(2, 3))
    if row_logits_GWW is not None and column_logits_GHH is not None:
        # Subtract the largest logit of each pixel, which does not change the softmax: added to logits in the
        # thousands, the scores would be lost to rounding.
        in_row, in_column = (logits.detach().amax(-1) for logits in (row_logits_GWW, column_logits_GHH))
        peak_GHW = torch.maximum(in_column[:, :, None], in_row[:, None])
        row = row + (row_logits_GWW[:, None] - peak_GHW[..., None]).to(row.dtype)
        column = column + (column_logits_GHH[:, None] - peak_GHW.mT[..., None]).to(column.dtype)
    itself = torch.eye(height, dtype=torch.bool, device=q_BGND.device)
    column = column.masked_fill(itself, -torch.inf)
    both = torch.cat([row, column.transpose(2, 3)], -1).softmax(-1)  # (B, G, H, W, W + H)
    return both[..., :width], both[..., width:].transpose(2, 3)


def mix_criss_cross(row_BGHWW: Tensor, column_BGWHH: Tensor, v_BGNE: Tensor) -> Tensor:
    """``out_i = sum_j P_ij v_j`` with the weights of :func:`criss_cross_weights`, shape (B, G, N, E)."""
    v_BGHWE = v_BGNE.unflatten(2, (row_BGHWW.shape[2], row_BGHWW.shape[3]))
    out = row_BGHWW @ v_BGHWE + (column_BGWHH @ v_BGHWE.transpose(2, 3)).transpose(2, 3)
    return out.flatten(2, 3)


def window_padding(size: tuple[int, int], window: int, shift: int) -> tuple[int, int, int, int]:
    """Padding (left, right, top, bottom) that makes windows with borders at ``shift + k window`` cover the map."""
    before = (window - shift) % window
    after = [-(before + length) % window for length in size]
    return before, after[1], before, after[0]


def to_windows(x_BGNC: Tensor, size: tuple[int, int], window: int, shift: int) -> Tensor:
    """Cuts a map into windows, padded with zeros: shape (B K, G, P, C), ``P = window^2``."""
    batch, groups, _, channels = x_BGNC.shape
    left, right, top, bottom = window_padding(size, window, shift)
    x = F.pad(x_BGNC.unflatten(2, size), (0, 0, left, right, top, bottom))
    x = x.unflatten(3, (-1, window)).unflatten(2, (-1, window))  # (B, G, rows, window, columns, window, C)
    return x.permute(0, 2, 4, 1, 3, 5, 6).reshape(-1, groups, window * window, channels)


def window_mask(size: tuple[int, int], window: int, shift: int, like: Tensor) -> Tensor:
    """Logits of the keys in the windows of a map, (K, 1, 1, P): 0, and -inf for padding, so that it gets no attention.

    They have the dtype and the device of ``like``.
    """
    real_K1P1 = to_windows(like.new_ones(1, 1, size[0] * size[1], 1), size, window, shift)
    return real_K1P1.new_zeros(real_K1P1.shape).masked_fill(real_K1P1 == 0, -torch.inf).mT


def from_windows(x_KGPC: Tensor, size: tuple[int, int], window: int, shift: int) -> Tensor:
    """The inverse of :func:`to_windows`, with the padding removed: shape (B, G, N, C)."""
    left, right, top, bottom = window_padding(size, window, shift)
    rows, columns = (size[0] + top + bottom) // window, (size[1] + left + right) // window
    _, groups, _, channels = x_KGPC.shape
    x = x_KGPC.reshape(-1, rows, columns, groups, window, window, channels).permute(0, 3, 1, 4, 2, 5, 6)
    x = x.reshape(-1, groups, rows * window, columns * window, channels)
    return x[:, :, top : top + size[0], left : left + size[1]].flatten(2, 3)


def neighbourhood_mask(kind: str, size: tuple[int, int], window: int = 1, shift: int = 0) -> Tensor:
    """Which pixel attends to which, (N, N) bool, from the definition: the dense reference for the tests."""
    y, x = (c.flatten() for c in torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing='ij'))
    if kind == 'full':
        return torch.ones(len(y), len(y), dtype=torch.bool)
    if kind == 'criss_cross':
        return (y[:, None] == y) | (x[:, None] == x)
    y, x = (y - shift).div(window, rounding_mode='floor'), (x - shift).div(window, rounding_mode='floor')
    return (y[:, None] == y) & (x[:, None] == x)

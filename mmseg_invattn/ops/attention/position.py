"""Coordinates of pixels, and tables that are read by offset.

Shape suffixes: G heads, N queries, M keys, S entries of a table, 2 the coordinates (row, column).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .pooling import pool_tokens


def pixel_grid(size: tuple[int, int], like: Tensor, pooling: int | Sequence[int] | None = None) -> Tensor:
    """Coordinates (row, column) of the pixels, or their means over the pooled parts: (M, 2), in float32 or higher."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    axes = [torch.arange(length, dtype=dtype, device=like.device) for length in size]
    grid_N2 = torch.stack(torch.meshgrid(*axes, indexing='ij'), -1).reshape(-1, 2)
    return pool_tokens(grid_N2[None, None], size, pooling)[0, 0]


def look_up(table_GS: Tensor, offset_NM: Tensor) -> Tensor:
    """Entries of a table for the given offsets, shape (G, N, M).

    Offsets beyond the table are clipped, and fractional offsets interpolate linearly. Entries may be -inf.
    """
    reach = table_GS.shape[1] // 2
    place = offset_NM.clamp(-reach, reach) + reach
    below = place.floor()
    part = (place - below).to(table_GS.dtype)
    below = below.long()
    above = (below + 1).clamp(max=2 * reach)
    between = table_GS[:, below] * (1 - part) + table_GS[:, above] * part
    # At a whole offset the next entry has weight 0, and 0 times -inf would be NaN.
    return torch.where(part == 0, table_GS[:, below], between)

"""Position logits ``beta_ij``: functions of where key and query are, not of what is there, so free in the certificate.

Shape suffixes: G heads, N queries, M keys, S entries of a table; the last 2 of coordinates are (row, column).
"""
import torch
from torch import Tensor, nn

from ..ops.attention import pool_tokens


class LearnedPosition(nn.Module):
    """``beta_ij = r[dy] + c[dx]``, a table for rows and one for columns, each with a number for every offset and head.

    For any feature size: offsets beyond the table take its last entry (they are clipped), and keys between pixels, as
    pooling makes them, interpolate linearly between two entries. Tables start at 0.

    Args:
        heads: G.
        size: offsets from ``-(size - 1)`` to ``size - 1`` have an entry of their own.
    """

    def __init__(self, heads: int, size: int = 32):
        super().__init__()
        self.row = nn.Parameter(torch.zeros(heads, 2 * size - 1))
        self.column = nn.Parameter(torch.zeros(heads, 2 * size - 1))

    def forward(self, query_N2: Tensor, key_M2: Tensor) -> Tensor:
        offset_NM2 = key_M2 - query_N2[:, None]
        return look_up(self.row, offset_NM2[..., 0]) + look_up(self.column, offset_NM2[..., 1])


def look_up(table_GS: Tensor, offset_NM: Tensor) -> Tensor:
    """Entries of a table of offsets, clipped to it and interpolated between two, (G, N, M)."""
    reach = table_GS.shape[1] // 2
    place = offset_NM.clamp(-reach, reach) + reach
    below = place.floor()
    part = (place - below).to(table_GS.dtype)
    below = below.long()
    above = (below + 1).clamp(max=2 * reach)
    return table_GS[:, below] * (1 - part) + table_GS[:, above] * part


class QuadraticPosition(nn.Module):
    """``beta_ij = -alpha |p_j - p_i - centre|^2``: each head looks at a spot of its own, offset by ``centre``.

    Cordonnier et al., https://arxiv.org/abs/1911.03584. The square is taken of the difference: the expanded form
    cancels at large offsets. For any feature size; the width is ``1 / sqrt(2 alpha)`` pixels.

    Args:
        heads: G; centres start on a spiral around the pixel, alpha at 1/32 (a width of 4 pixels).
    """

    def __init__(self, heads: int, size: int = 32):
        super().__init__()
        head = torch.arange(heads)
        angle = head * 2.399963  # the golden angle: neighbouring heads look in different directions
        self.centre = nn.Parameter(2 * head.sqrt()[:, None] * torch.stack([angle.sin(), angle.cos()], 1))
        self.log_alpha = nn.Parameter(torch.full((heads, ), 1 / 32).log())

    def forward(self, query_N2: Tensor, key_M2: Tensor) -> Tensor:
        offset_NM2 = (key_M2 - query_N2[:, None]).to(self.centre.dtype)
        distance_GNM = (offset_NM2 - self.centre[:, None, None]).square().sum(-1)
        return -self.log_alpha.exp()[:, None, None] * distance_GNM


POSITIONS = {'learned': LearnedPosition, 'quadratic': QuadraticPosition}


def pixel_grid(size: tuple[int, int], like: Tensor, pooling: int | tuple[int, ...] | None = None) -> Tensor:
    """Coordinates (row, column) of the pixels, or the means over the pooled parts: (M, 2), in float32 or higher."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    axes = [torch.arange(length, dtype=dtype, device=like.device) for length in size]
    grid_N2 = torch.stack(torch.meshgrid(*axes, indexing='ij'), -1).reshape(-1, 2)
    return pool_tokens(grid_N2[None, None], size, pooling)[0, 0]

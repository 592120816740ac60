"""Position logits ``beta_ij``: functions of where key and query are, not of what is there, so free in the certificate.

Shape suffixes: G heads, N queries, M keys, S entries of a table; the last 2 of coordinates are (row, column).
"""

import torch
from torch import Tensor, nn

from ...ops import at_least_float32
from ...ops.attention import look_up


class LearnedPosition(nn.Module):
    """``beta_ij = r[dy] + c[dx]``, a table for rows and one for columns, each with a number for every offset and head.

    For any feature size: offsets beyond the table take its last entry (they are clipped), and keys between pixels, as
    pooling makes them, interpolate linearly between two entries. Tables start at 0; an entry of -inf masks its offset.

    Args:
        heads: G.
        size: offsets from ``-(size - 1)`` to ``size - 1`` have an entry of their own.
    """

    def __init__(self, heads: int, size: int):
        super().__init__()
        self.row = nn.Parameter(torch.zeros(heads, 2 * size - 1))
        self.column = nn.Parameter(torch.zeros(heads, 2 * size - 1))

    def forward(self, query_N2: Tensor, key_M2: Tensor) -> Tensor:
        offset_NM2 = key_M2 - query_N2[:, None]
        return look_up(at_least_float32(self.row), offset_NM2[..., 0]) + look_up(
            at_least_float32(self.column), offset_NM2[..., 1]
        )


class QuadraticPosition(nn.Module):
    """``beta_ij = -alpha |p_j - p_i - centre|^2``: each head looks at a spot of its own, offset by ``centre``.

    Cordonnier et al., https://arxiv.org/abs/1911.03584. The square is taken of the difference: the expanded form
    cancels at large offsets. For any feature size; the width is ``1 / sqrt(2 alpha)`` pixels.

    Args:
        heads: G; centres start on a spiral around the pixel, alpha at 1/32 (a width of 4 pixels).
        size: of no meaning here.
    """

    def __init__(self, heads: int, size: int | None = None):
        super().__init__()
        head = torch.arange(heads)
        angle = head * 2.399963  # the golden angle: neighbouring heads look in different directions
        self.centre = nn.Parameter(2 * head.sqrt()[:, None] * torch.stack([angle.sin(), angle.cos()], 1))
        self.log_alpha = nn.Parameter(torch.full((heads,), 1 / 32).log())

    def forward(self, query_N2: Tensor, key_M2: Tensor) -> Tensor:
        centre, log_alpha = at_least_float32(self.centre), at_least_float32(self.log_alpha)
        offset_NM2 = (key_M2 - query_N2[:, None]).to(centre.dtype)
        distance_GNM = (offset_NM2 - centre[:, None, None]).square().sum(-1)
        return -log_alpha.exp()[:, None, None] * distance_GNM


POSITIONS = {'learned': LearnedPosition, 'quadratic': QuadraticPosition}

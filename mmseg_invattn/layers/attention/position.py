"""Position logits ``beta_ij``: they depend on the positions of key and query, not on the features.

Therefore they do not change the certificate.

Shape suffixes: G heads, N queries, M keys, S entries of a table, 2 the coordinates (row, column).
"""

import torch
from torch import Tensor, nn

from ...ops import at_least_float32
from ...ops.attention import look_up


class LearnedPosition(nn.Module):
    """``beta_ij = r[dy] + c[dx]``, a table for rows and one for columns, each with a number for every offset and head.

    It works for any feature size: offsets beyond the table are clipped and use its last entry, and keys between pixels,
    which pooling produces, interpolate linearly between two entries. Tables start at 0; an entry of -inf masks its
    offset.

    Args:
        heads: G.
        size: offsets from ``-(size - 1)`` to ``size - 1`` have their own entry.
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
    """``beta_ij = -alpha |p_j - p_i - centre|^2``: each head attends to the place at offset ``centre`` from the pixel.

    Cordonnier et al., https://arxiv.org/abs/1911.03584. The difference is computed first and then squared, because the
    expanded form would lose digits at large offsets. It works for any feature size; the width is ``1 / sqrt(2 alpha)``
    pixels.

    Args:
        heads: G; centres start on a spiral around the pixel, alpha at 1/32 (a width of 4 pixels).
        size: not used.
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

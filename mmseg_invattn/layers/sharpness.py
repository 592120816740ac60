"""The sharpness s of each head: the largest content logit, which sets the temperature and, with it, the gain."""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

START = 2.0


class Sharpness(nn.Module):
    """``s``, shape (G,).

    Args:
        value: a number; ``'learned'``: ``s = softplus(raw)``, one a head, from 2 on; ``'log_n'``: ``s = ln(N) / 2`` for
            N pixels, with which one of them can hold half of the weight at every N, at a gain of about ``c / ln N``.
        heads: G.
    """

    def __init__(self, value: float | str, heads: int):
        super().__init__()
        self.value = value
        self.depends_on_n = value == 'log_n'
        self.raw = nn.Parameter(torch.full((heads, ), math.log(math.expm1(START)))) if value == 'learned' else None
        self.register_buffer('unit', torch.ones(heads), persistent=False)

    def forward(self, n_pixels: int | None) -> Tensor:
        if self.raw is not None:
            return F.softplus(self.raw)
        return self.unit * (math.log(n_pixels) / 2 if self.depends_on_n else self.value)

    def extra_repr(self) -> str:
        return f'{self.value!r}'

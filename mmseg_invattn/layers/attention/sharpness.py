"""The sharpness s of each head: the largest content logit, which sets the temperature and, with it, the gain."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...ops import at_least_float32

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
        self.value, self.heads = value, heads
        self.depends_on_n = value == 'log_n'
        self.raw = nn.Parameter(torch.full((heads,), math.log(math.expm1(START)))) if value == 'learned' else None

    def forward(self) -> Tensor | None:
        """s where it is learned, else None."""
        return None if self.raw is None else F.softplus(at_least_float32(self.raw))

    def at(self, learned_G: Tensor | None, n_pixels: int | None, like: Tensor) -> Tensor:
        """s for so many pixels, in the dtype and on the device of ``like``.

        Args:
            learned_G: what calling the module gave.
            n_pixels: N; it counts for ``'log_n'`` alone.
        """
        if learned_G is not None:
            return learned_G.to(like.dtype)
        value = self.value
        if isinstance(value, str):  # 'log_n'
            assert n_pixels is not None
            value = math.log(n_pixels) / 2
        return like.new_full((self.heads,), value)

    def extra_repr(self) -> str:
        return f'{self.value!r}'

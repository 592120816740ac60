"""The sharpness s of each head: the largest content logit. It determines the temperature and the gain."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...ops import at_least_float32

START = 2.0


class Sharpness(nn.Module):
    """``s``, shape (G,).

    Args:
        value: a number; ``'learned'``: ``s = softplus(raw)``, one per head, starting at 2; or ``'log_n'``:
            ``s = ln(N) / 2`` for N pixels, with which a single pixel can have half of the weight for every N, at a gain
            of about ``c / ln N``.
        heads: G.
    """

    def __init__(self, value: float | str, heads: int):
        super().__init__()
        self.value, self.heads = value, heads
        self.depends_on_n = value == 'log_n'
        self.raw = nn.Parameter(torch.full((heads,), math.log(math.expm1(START)))) if value == 'learned' else None

    def forward(self) -> Tensor | None:
        """s if it is learned, else None."""
        return None if self.raw is None else F.softplus(at_least_float32(self.raw))

    def at(self, learned_G: Tensor | None, n_pixels: int | None, like: Tensor) -> Tensor:
        """s for a number of pixels, in the dtype and on the device of ``like``.

        Args:
            learned_G: the result of calling the module.
            n_pixels: N; only used for ``'log_n'``.
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

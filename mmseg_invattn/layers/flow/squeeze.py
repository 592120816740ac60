"""Space to depth: less resolution, more channels, the same values."""

import torch.nn.functional as F
from torch import Tensor

from ...wording import counted
from ..checks import check_count
from ..explicit import Accuracy, ExplicitInverse, nothing_lost


class Squeeze(ExplicitInverse):
    """(B, C, H, W) -> (B, C r^2, H/r, W/r): the pixels of an r x r block become the channels of one pixel.

    This is a permutation, so the inverse is exact and the log-determinant is 0. A token of y consists of r^2 tokens of
    x, so in the norm inf2 ``Lip(f) = r`` and ``Lip(f^-1) = 1``.

    Args:
        factor: r.

    Raises:
        ValueError: height or width is not a multiple of r. Padding inside would not be invertible.
    """

    def __init__(self, factor: int = 2):
        super().__init__()
        check_count('factor', factor)
        self.factor = factor

    def transform(self, x: Tensor, weights: tuple) -> Tensor:
        r, (height, width) = self.factor, x.shape[2:]
        if height % r or width % r:
            raise ValueError(
                f'got a feature map of {height} x {width}; Squeeze({r}) takes multiples of {r}: pad your '
                f'images so that it becomes {-(-height // r) * r} x {-(-width // r) * r}'
            )
        return F.pixel_unshuffle(x, r)

    def solve(self, y: Tensor, weights: tuple) -> Tensor:
        if y.shape[1] % self.factor**2:
            raise ValueError(
                f'got {counted(y.shape[1], "channel")}; the inverse of Squeeze({self.factor}) takes a multiple '
                f'of {self.factor**2}'
            )
        return F.pixel_shuffle(y, self.factor)

    def accuracy(self, y: tuple[Tensor, ...], x: Tensor, stored: tuple[Tensor, ...], weights: tuple) -> Accuracy:
        return nothing_lost(x, self.solve(stored[0], weights))

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        return float(self.factor), 1.0

    def extra_repr(self) -> str:
        return f'factor={self.factor}'

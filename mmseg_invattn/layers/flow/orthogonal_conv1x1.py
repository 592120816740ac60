"""Orthogonal 1x1 convolution as an invertible layer: chooses new axes for the channels and amplifies nothing."""

import torch
from torch import Tensor

from ...ops import full_precision, max_token_norm
from ..explicit import ExplicitInverse
from ..orthogonal import OrthogonalMatrix, rotate


class OrthogonalConv1x1(ExplicitInverse):
    """``y_i = U x_i`` for every pixel, U orthogonal for all values of its parameters; log-determinant 0.

    Where :class:`InvConv1x1` may become as ill-conditioned as training makes it, the inverse of this one is a
    transpose and keeps the norm of every error.

    Args:
        channels: C.
    """

    channels: int

    def __init__(self, channels: int):
        super().__init__()
        self.channels, self.matrix = channels, OrthogonalMatrix(channels)

    def weights(self) -> Tensor:
        """U, float64."""
        with full_precision(self.matrix.generator.device):
            return self.matrix()

    def transform(self, x: Tensor, weights: Tensor) -> Tensor:
        return rotate(x, weights)

    def solve(self, y: Tensor, weights: Tensor) -> Tensor:
        return rotate(y, weights, transpose=True)

    def accuracy(self, y: Tensor, x: Tensor, eps: float, weights: Tensor) -> tuple[Tensor, Tensor]:
        # U is applied twice, each time a sum of C products: as independent errors, sqrt(C) of one
        size, eps_here = max_token_norm(y), torch.finfo(y.dtype).eps
        return max_token_norm(y - rotate(x, weights)), 4 * (eps + self.channels**0.5 * eps_here) * size

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        return 1.0, 1.0

    def extra_repr(self) -> str:
        return f'{self.channels}'

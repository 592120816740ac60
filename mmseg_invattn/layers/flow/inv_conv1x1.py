"""Invertible 1x1 convolution (Kingma and Dhariwal, Glow, https://arxiv.org/abs/1807.03039), in its LU form."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...ops import Roundoff, max_token_norm, product_rounding, spectral_norm_bound
from ..constant_weights import weights_of
from ..explicit import Accuracy, ExplicitInverse
from ..parameters import given_out


class Factors(NamedTuple):
    """L and ``U + diag(sign exp(log_s))``, float64, shape (C, C), and log_s in float32 or higher."""

    lower: Tensor
    upper: Tensor
    log_s: Tensor


class InvConv1x1(ExplicitInverse):
    """``y_i = W x_i`` for every pixel, ``W = P L (U + diag(sign exp(log_s)))``.

    P is a fixed permutation, L unit lower and U strictly upper triangular, so ``log|det W| = sum log_s`` and W is
    invertible for all values of the parameters. It starts as a random rotation. W is computed, and its equations are
    solved, in float64.

    Args:
        channels: C.
    """

    channels: int
    sign: Tensor
    permutation: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        start = nn.init.orthogonal_(torch.empty(channels, channels, dtype=torch.float64))
        p, lower, upper = torch.linalg.lu(start)
        rows, cols = torch.tril_indices(channels, channels, -1)
        dtype = torch.get_default_dtype()
        self.lower = nn.Parameter(lower[rows, cols].to(dtype))
        self.upper = nn.Parameter(upper.mT[rows, cols].to(dtype))
        self.log_s = nn.Parameter(upper.diagonal().abs().log().to(dtype))
        self.register_buffer('sign', upper.diagonal().sign().to(torch.int8))
        self.register_buffer('permutation', p.argmax(1))

    def weights(self) -> Factors:
        rows, cols = torch.tril_indices(self.channels, self.channels, -1, device=self.lower.device)
        empty = torch.zeros(self.channels, self.channels, dtype=torch.float64, device=self.lower.device)
        eye = torch.eye(self.channels, dtype=torch.float64, device=self.lower.device)
        lower = empty.index_put((rows, cols), self.lower.double()) + eye
        upper = empty.index_put((cols, rows), self.upper.double())
        return Factors(lower, upper + torch.diag(self.sign * self.log_s.double().exp()), given_out(self.log_s))

    def matrix(self, weights: Factors) -> Tensor:
        """W, float64, shape (C, C)."""
        return (weights.lower @ weights.upper)[self.permutation]

    def transform(self, x: Tensor, weights: Factors) -> Tensor:
        return torch.einsum('oc,bchw->bohw', self.matrix(weights).to(x.dtype), x)

    def solve(self, y: Tensor, weights: Factors) -> Tensor:
        y_CN = y.double().transpose(0, 1).flatten(1)[self.permutation.argsort()]
        x_CN = torch.linalg.solve_triangular(weights.lower, y_CN, upper=False, unitriangular=True)
        x_CN = torch.linalg.solve_triangular(weights.upper, x_CN, upper=True)
        return x_CN.unflatten(1, (len(y), *y.shape[2:])).transpose(0, 1).to(y.dtype)

    def accuracy(self, y: tuple[Tensor, ...], x: Tensor, stored: tuple[Tensor, ...], weights: Factors) -> Accuracy:
        """``|dx| <= |M^-1| (|r| + rounding)``, where M is W as rounded for the forward pass."""
        matrix, u = self.matrix(weights).to(x.dtype).double(), Roundoff.of(x.dtype).sums
        residual = max_token_norm(y[0].double() - torch.einsum('oc,bchw->bohw', matrix, x.double()))
        rounding = product_rounding(matrix, u) * max_token_norm(x) + u * max_token_norm(y[0])
        rounding = rounding + torch.finfo(x.dtype).tiny * self.channels + max_token_norm(stored[0])
        return Accuracy(residual, rounding, _inverse_norm(self._inverse(weights), matrix) * (residual + rounding))

    @torch.no_grad()
    def bi_lipschitz_bound(self) -> tuple[float, float]:
        weights = weights_of(self)
        matrix = self.matrix(weights)
        backward = float(_inverse_norm(self._inverse(weights), matrix))
        return float(spectral_norm_bound(matrix)), backward if math.isfinite(backward) else math.inf

    def _inverse(self, weights: Factors) -> Tensor:
        """W^-1, rounded to float64, shape (C, C)."""
        eye = torch.eye(self.channels, dtype=torch.float64, device=weights.lower.device)[self.permutation.argsort()]
        lower = torch.linalg.solve_triangular(weights.lower, eye, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(weights.upper, lower, upper=True)

    def log_det(self, x: Tensor, weights: Factors) -> Tensor:
        """``H W sum log_s``."""
        return (x[0, 0].numel() * weights.log_s.to(x.dtype).sum()).expand(len(x))

    def extra_repr(self) -> str:
        return f'{self.channels}'


def _inverse_norm(approximate: Tensor, matrix: Tensor) -> Tensor:
    """Bound of ``|M^-1|`` from an approximation X of it: ``M^-1 = (1 - (1 - X M))^-1 X``.

    Infinite if X is not close enough.
    """
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    size, norm = spectral_norm_bound(approximate), torch.linalg.matrix_norm(matrix)
    # the last term is the rounding of X M
    defect = torch.linalg.matrix_norm(eye - approximate @ matrix) + len(matrix) * 2.0**-52 * size * norm
    return torch.where(defect < 1, size / (1 - defect), torch.inf)

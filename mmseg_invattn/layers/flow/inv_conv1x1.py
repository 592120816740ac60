"""Invertible 1x1 convolution (Kingma and Dhariwal, Glow, https://arxiv.org/abs/1807.03039), in its LU form."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...ops import max_token_norm, spectral_norm_bound
from ..constant_weights import weights_of
from ..explicit import ExplicitInverse, rounding
from ..parameters import given_out


class Factors(NamedTuple):
    """L and ``U + diag(sign exp(log_s))``, float64, shape (C, C), and log_s in float32 or higher."""

    lower: Tensor
    upper: Tensor
    log_s: Tensor


class InvConv1x1(ExplicitInverse):
    """``y_i = W x_i`` for every pixel, ``W = P L (U + diag(sign exp(log_s)))``.

    P is a fixed permutation, L unit lower and U strictly upper triangular, so ``log|det W| = sum log_s`` and W is
    invertible for all values of the parameters. It starts as a random rotation. W is put together and solved for in
    float64.

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

    def accuracy(self, y: Tensor, x: Tensor, eps: float, weights: Factors) -> tuple[Tensor, Tensor]:
        # forward rounded C products and sums for every number of y: as independent errors, sqrt(C) of one
        forward, backward = self.bi_lipschitz_bound()
        eps_here = torch.finfo(y.dtype).eps
        bound = backward * (rounding(eps, y) + forward * self.channels**0.5 * rounding(eps_here, x))
        return max_token_norm(y - self.transform(x, weights)), bound + rounding(eps_here, x)

    @torch.no_grad()
    def bi_lipschitz_bound(self) -> tuple[float, float]:
        lower, upper, _ = weights_of(self)
        eye = torch.eye(self.channels, dtype=torch.float64, device=lower.device)
        inverse = torch.linalg.solve_triangular(
            upper, torch.linalg.solve_triangular(lower, eye, upper=False, unitriangular=True), upper=True
        )
        forward, backward = (float(spectral_norm_bound(w)) for w in (lower @ upper, inverse))
        # the inverse in float64 has a relative error of about C eps |W| |W^-1|
        backward *= 1 + self.channels * torch.finfo(torch.float64).eps * forward * backward
        return forward, backward if math.isfinite(backward) else math.inf

    def log_det(self, x: Tensor, weights: Factors) -> Tensor:
        """``H W sum log_s``."""
        return (x[0, 0].numel() * weights.log_s.to(x.dtype).sum()).expand(len(x))

    def extra_repr(self) -> str:
        return f'{self.channels}'

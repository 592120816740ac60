"""Invertible 1x1 convolution (Kingma and Dhariwal, Glow, https://arxiv.org/abs/1807.03039), in its LU form."""
import math

import torch
from torch import Tensor, nn

from ..ops import Roulette, max_token_norm, spectral_norm_bound
from .base import check_features
from .explicit import ExplicitInverse, rounding


class InvConv1x1(ExplicitInverse):
    """``y_i = W x_i`` for every pixel, ``W = P L (U + diag(sign exp(log_s)))``.

    P is a fixed permutation, L unit lower and U strictly upper triangular, so ``log|det W| = sum log_s`` and W is
    invertible for all values of the parameters. It starts as a random rotation. W is put together and solved for in
    float64.

    Args:
        channels: C.
    """

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

    def factors(self) -> tuple[Tensor, Tensor]:
        """(L, U + diag), float64, shape (C, C)."""
        rows, cols = torch.tril_indices(self.channels, self.channels, -1, device=self.lower.device)
        empty = torch.zeros(self.channels, self.channels, dtype=torch.float64, device=self.lower.device)
        eye = torch.eye(self.channels, dtype=torch.float64, device=self.lower.device)
        lower = empty.index_put((rows, cols), self.lower.double()) + eye
        upper = empty.index_put((cols, rows), self.upper.double())
        return lower, upper + torch.diag(self.sign * self.log_s.double().exp())

    def weight(self) -> Tensor:
        """W, float64, shape (C, C)."""
        lower, upper = self.factors()
        return (lower @ upper)[self.permutation]

    def transform(self, x: Tensor) -> Tensor:
        return torch.einsum('oc,bchw->bohw', self.weight().to(x.dtype), x)

    def recover(self, y: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        lower, upper = self.factors()
        y_CN = y.double().transpose(0, 1).flatten(1)[self.permutation.argsort()]
        x_CN = torch.linalg.solve_triangular(lower, y_CN, upper=False, unitriangular=True)
        x_CN = torch.linalg.solve_triangular(upper, x_CN, upper=True)
        x = x_CN.unflatten(1, (len(y), *y.shape[2:])).transpose(0, 1).to(y.dtype)
        # forward rounded C products and sums for every number of y: as independent errors, sqrt(C) of one
        forward, backward = self.bi_lipschitz_bound()
        eps_here = torch.finfo(y.dtype).eps
        bound = backward * (rounding(eps, y) + forward * self.channels**0.5 * rounding(eps_here, x))
        return x, max_token_norm(y - self.transform(x)), bound + rounding(eps_here, x)

    @torch.no_grad()
    def bi_lipschitz_bound(self) -> tuple[float, float]:
        lower, upper = self.factors()
        eye = torch.eye(self.channels, dtype=torch.float64, device=lower.device)
        inverse = torch.linalg.solve_triangular(
            upper, torch.linalg.solve_triangular(lower, eye, upper=False, unitriangular=True), upper=True)
        forward, backward = (float(spectral_norm_bound(w)) for w in (lower @ upper, inverse))
        # the inverse in float64 has a relative error of about C eps |W| |W^-1|
        backward *= 1 + self.channels * torch.finfo(torch.float64).eps * forward * backward
        return forward, backward if math.isfinite(backward) else math.inf

    def log_abs_det(self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1) -> Tensor:
        """``H W sum log_s``."""
        check_features(x, self.channels)
        dtype = torch.promote_types(x.dtype, torch.float32)
        return (x[0, 0].numel() * self.log_s.to(dtype).sum()).expand(len(x))

    def extra_repr(self) -> str:
        return f'{self.channels}'

"""Activation normalisation (Kingma and Dhariwal, Glow, https://arxiv.org/abs/1807.03039)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...ops import at_least_float32, max_token_norm, unit_roundoff
from ..data_dependent import DataDependentStart, sum_of_processes
from ..explicit import Accuracy, ExplicitInverse
from ..parameters import compute_dtype, given_out


class Affine(NamedTuple):
    """m, 1 / a and log a, (C, 1, 1) each, in float32 or higher."""

    centre: Tensor
    inverse_scale: Tensor
    log_scale: Tensor


class ActNorm2d(ExplicitInverse, DataDependentStart):
    """``y = (x - m) / a`` with m and a learned for every channel, ``a = exp(log_scale)``.

    They are initialised from the first training batch of all processes, so that y has mean 0 and variance 1. Later
    batches do not change them.

    Args:
        channels: C.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.centre = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def start(self, x: Tensor) -> None:
        DataDependentStart.start(self, at_least_float32(x))

    def weights(self) -> Affine:
        log_scale = given_out(self.log_scale)
        return Affine(given_out(self.centre), torch.exp(-log_scale), log_scale)

    def working_dtype(self, x: Tensor) -> torch.dtype:
        return compute_dtype(self, x)

    def transform(self, x: Tensor, weights: Affine) -> Tensor:
        return (x - weights.centre) * weights.inverse_scale

    def solve(self, y: Tensor, weights: Affine) -> Tensor:
        return y / weights.inverse_scale + weights.centre

    def accuracy(self, y: tuple[Tensor, ...], x: Tensor, stored: tuple[Tensor, ...], weights: Affine) -> Accuracy:
        """For each number: a difference and a product, ``|dx| <= a (|r| + 2 u |y|)``, plus underflow."""
        centre, inverse_scale = weights.centre.double(), weights.inverse_scale.double()
        exact = (x.double() - centre) * inverse_scale
        residual = (y[0].double() - exact).abs()
        rounding = (
            2 * unit_roundoff(x.dtype) * exact.abs() + torch.finfo(x.dtype).tiny * (1 + inverse_scale) + stored[0]
        )
        # for float64 features, the evaluation in float64 has the same rounding
        rounding = rounding * (1 + torch.finfo(torch.float64).eps / torch.finfo(x.dtype).eps)
        bound = (residual + rounding) / inverse_scale
        return Accuracy(*(max_token_norm(each) for each in (residual, rounding, bound)))

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        scale = self.log_scale.detach().double().exp()
        return float(1 / scale.min()), float(scale.max())

    def log_det(self, x: Tensor, weights: Affine) -> Tensor:
        """``-H W sum_c log a_c``."""
        return (-x[0, 0].numel() * weights.log_scale.to(x.dtype).sum()).expand(len(x))

    def statistics(self, x: Tensor) -> dict[str, Tensor]:
        eps, x = torch.finfo(x.dtype).eps, x.double()  # squares of large features would overflow
        total = sum_of_processes(torch.full((), x.shape[0] * x[0, 0].numel(), dtype=x.dtype, device=x.device))
        centre = (sum_of_processes(x.sum((0, 2, 3))) / total)[:, None, None]
        variance = sum_of_processes((x - centre).square().sum((0, 2, 3))) / total
        # A constant channel has no scale, and neither has one whose spread is only the rounding of its mean: use 1.
        floor = (centre.flatten() * eps * 8).square()
        return dict(centre=centre, log_scale=torch.where(variance > floor, variance, 1).log()[:, None, None] / 2)

    def extra_repr(self) -> str:
        return f'{self.channels}'

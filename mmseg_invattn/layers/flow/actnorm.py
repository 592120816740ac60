"""Activation normalisation (Kingma and Dhariwal, Glow, https://arxiv.org/abs/1807.03039)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...ops import at_least_float32, max_token_norm
from ..data_dependent import DataDependentStart, sum_of_processes
from ..explicit import ExplicitInverse, rounding
from ..parameters import given_out


class Affine(NamedTuple):
    """m and log a, (C, 1, 1) each, in float32 or higher."""

    centre: Tensor
    log_scale: Tensor


class ActNorm2d(ExplicitInverse, DataDependentStart):
    """``y = (x - m) / a`` with m and a learned for every channel, ``a = exp(log_scale)``.

    The first training batch of all processes sets them so that y has mean 0 and variance 1; nothing after it does.

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
        return Affine(given_out(self.centre), given_out(self.log_scale))

    def transform(self, x: Tensor, weights: Affine) -> Tensor:
        return (x - weights.centre) * torch.exp(-weights.log_scale)

    def solve(self, y: Tensor, weights: Affine) -> Tensor:
        return y * torch.exp(weights.log_scale) + weights.centre

    def accuracy(self, y: Tensor, x: Tensor, eps: float, weights: Affine) -> tuple[Tensor, Tensor]:
        scale, eps_here = torch.exp(weights.log_scale), torch.finfo(x.dtype).eps
        # y as stored, times a; then the rounding of x itself and of the sum with m
        bound = rounding(eps, y * scale) + rounding(eps_here, x, weights.centre.expand_as(x))
        return max_token_norm(y - (x - weights.centre) / scale), bound

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        scale = self.log_scale.detach().double().exp()
        return float(1 / scale.min()), float(scale.max())

    def log_det(self, x: Tensor, weights: Affine) -> Tensor:
        """``-H W sum_c log a_c``."""
        return (-x[0, 0].numel() * weights.log_scale.to(x.dtype).sum()).expand(len(x))

    def statistics(self, x: Tensor) -> dict[str, Tensor]:
        x = x.to(torch.promote_types(self.centre.dtype, torch.float32))
        total = sum_of_processes(torch.full((), x.shape[0] * x[0, 0].numel(), dtype=x.dtype, device=x.device))
        centre = (sum_of_processes(x.sum((0, 2, 3))) / total)[:, None, None]
        variance = sum_of_processes((x - centre).square().sum((0, 2, 3))) / total
        # A channel that is constant has no scale of its own; nor has one whose spread is the rounding of its mean.
        floor = (centre.flatten() * torch.finfo(x.dtype).eps * 8).square()
        return dict(centre=centre, log_scale=torch.where(variance > floor, variance, 1).log()[:, None, None] / 2)

    def extra_repr(self) -> str:
        return f'{self.channels}'

"""Activation normalisation (Kingma and Dhariwal, Glow, https://arxiv.org/abs/1807.03039)."""
import torch
from torch import Tensor, nn

from ..ops import Roulette, max_token_norm
from .base import check_features
from .data_dependent import DataDependentStart, sum_of_processes
from .explicit import ExplicitInverse, rounding


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

    def transform(self, x: Tensor) -> Tensor:
        self.start(x)
        return (x - self.centre) * torch.exp(-self.log_scale)

    def recover(self, y: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        scale = torch.exp(self.log_scale)
        x = y * scale + self.centre
        eps_here = torch.finfo(x.dtype).eps
        # y as stored, times a; then the rounding of x itself and of the sum with m
        bound = rounding(eps, y * scale) + rounding(eps_here, x, self.centre.expand_as(x))
        return x, max_token_norm(y - (x - self.centre) / scale), bound

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        scale = self.log_scale.detach().double().exp()
        return float(1 / scale.min()), float(scale.max())

    def log_abs_det(self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1) -> Tensor:
        """``-H W sum_c log a_c``, from the scale that :meth:`forward` uses on this x."""
        check_features(x, self.channels)
        self.start(x)
        dtype = torch.promote_types(x.dtype, torch.float32)
        return (-x[0, 0].numel() * self.log_scale.to(dtype).sum()).expand(len(x))

    def _initialise(self, x: Tensor) -> None:
        x = x.to(self.centre.dtype)
        total = sum_of_processes(torch.full((), x.shape[0] * x[0, 0].numel(), dtype=x.dtype, device=x.device))
        self.centre.copy_((sum_of_processes(x.sum((0, 2, 3))) / total)[:, None, None])
        variance = sum_of_processes((x - self.centre).square().sum((0, 2, 3))) / total
        # A channel that is constant has no scale of its own; nor has one whose spread is the rounding of its mean.
        floor = (self.centre.flatten() * torch.finfo(x.dtype).eps * 8).square()
        self.log_scale.copy_(torch.where(variance > floor, variance, 1).log()[:, None, None] / 2)

    def extra_repr(self) -> str:
        return f'{self.channels}'

"""Soft spectral normalisation by power iteration, of form ``paper`` alone.

    W / max(1, sigma / coefficient),     sigma = u^T W v

u and v come from power iterations, so sigma is a lower bound of the spectral norm: it never carries a certificate.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .linear import GroupedLinear

ITERATIONS = 5  # before every forward pass in training mode


class SoftSpectralNorm(nn.Module):
    """A parametrisation of weights (G, E, C); u (G, E) and v (G, C) are saved with the state.

    Args:
        weight: shape (G, E, C).
        coefficient: norms up to it are left alone.
    """

    def __init__(self, weight: Tensor, coefficient: float):
        super().__init__()
        self.coefficient = coefficient
        self.register_buffer('u', F.normalize(torch.randn(weight.shape[:2]), dim=1))
        self.register_buffer('v', F.normalize(torch.randn(weight.shape[0], weight.shape[2]), dim=1))
        # The paper's code starts from random u and v, with which a block used before its first training step is not
        # normalised at all.
        self.iterate(weight.detach(), 3 * ITERATIONS)

    @torch.no_grad()
    def iterate(self, weight: Tensor, n: int = ITERATIONS) -> None:
        """``v <- W^T u / |W^T u|``, then ``u <- W v / |W v|``, n times."""
        for _ in range(n):
            self.v.copy_(F.normalize(torch.einsum('gec,ge->gc', weight, self.u), dim=1))
            self.u.copy_(F.normalize(torch.einsum('gec,gc->ge', weight, self.v), dim=1))

    def forward(self, weight: Tensor) -> Tensor:
        # Copies: a later iteration changes u and v in place, before this pass may have had its backward.
        sigma = torch.einsum('ge,gec,gc->g', self.u.clone(), weight, self.v.clone())
        return weight / (sigma / self.coefficient).clamp(min=1)[:, None, None]


def soften(linear: GroupedLinear, coefficient: float) -> None:
    """Puts the normalisation on ``linear.weight``."""
    parametrize.register_parametrization(linear, 'weight', SoftSpectralNorm(linear.weight, coefficient))


def iterate_all(module: nn.Module) -> None:
    """Five power iterations of every normalised weight under ``module``."""
    for linear in module.modules():
        if parametrize.is_parametrized(linear, 'weight'):
            chain = linear.parametrizations.weight
            chain[0].iterate(chain.original)

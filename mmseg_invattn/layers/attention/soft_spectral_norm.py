"""Soft spectral normalisation by power iteration, used only in form ``paper``.

    W / max(1, sigma / coefficient),     sigma = u^T W v

u and v come from power iterations, so sigma is a lower bound of the spectral norm; no certificate can be based on it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...ops import at_least_float32
from .linear import GroupedLinear

ITERATIONS = 5  # before every forward pass in training mode


class SoftSpectralLinear(GroupedLinear):
    """Grouped linear weights; calling the module returns them normalised. u (G, E) and v (G, C) are saved as buffers.

    Args:
        linear: the layer whose weights are normalised.
        coefficient: weights with a norm of at most this are not changed.
    """

    u: Tensor
    v: Tensor

    def __init__(self, linear: GroupedLinear, coefficient: float):
        nn.Module.__init__(self)
        self.weight, self.bias, self.coefficient = linear.weight, linear.bias, coefficient
        groups, rows, columns = linear.weight.shape
        self.register_buffer('u', F.normalize(torch.randn(groups, rows), dim=1))
        self.register_buffer('v', F.normalize(torch.randn(groups, columns), dim=1))
        # The paper's code starts from random u and v. With these, a block used before its first training step would not
        # be normalised at all.
        self.iterate(3 * ITERATIONS)

    @torch.no_grad()
    def iterate(self, n: int = ITERATIONS) -> None:
        """``v <- W^T u / |W^T u|``, then ``u <- W v / |W v|``, n times."""
        weight, u, v = map(at_least_float32, (self.weight, self.u, self.v))
        for _ in range(n):
            v = F.normalize(torch.einsum('gec,ge->gc', weight, u), dim=1)
            u = F.normalize(torch.einsum('gec,gc->ge', weight, v), dim=1)
        self.u.copy_(u)
        self.v.copy_(v)

    def forward(self) -> tuple[Tensor, Tensor | None]:
        weight, bias = super().forward()
        # Copies, because a later iteration changes u and v in place, possibly before the backward pass of this call.
        u, v = self.u.clone().to(weight.dtype), self.v.clone().to(weight.dtype)
        sigma = torch.einsum('ge,gec,gc->g', u, weight, v)
        return weight / (sigma / self.coefficient).clamp(min=1)[:, None, None], bias


def iterate_all(module: nn.Module) -> None:
    """Runs five power iterations for every normalised weight in ``module``."""
    for linear in module.modules():
        if isinstance(linear, SoftSpectralLinear):
            linear.iterate()

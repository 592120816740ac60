"""Couplings on a grid: reversible to the last bit, however steep the sub-networks are.

In floating point ``(x2 + t(x1)) - t(x1)`` is x2 up to a rounding error, and the next coupling evaluates its sub-network
at a number that is slightly off; how far that spreads nobody knows. With every number of the stream a multiple of one
step, a power of two,

    y1 = x1,   y2 = x2 + round(t(x1))          x2 = y2 - round(t(y1))

sums and differences are exact (below 2048, in float32 and in float64), so x1 and x2 come back bit for bit, and so does
everything in front of them. What an image loses is its own rounding to the grid, at most half a step: 6e-5 in float32,
of a grey level 1/140 with the usual normalisation. Gradients pass the rounding unchanged.

The fixed-point numbers of a reversible network are those of MacKay et al., https://arxiv.org/abs/1810.10999.
"""

import torch
from torch import Tensor

from ...ops import max_token_norm, unit_roundoff
from ...ops.second_derivative import transformed
from ..explicit import Accuracy, ExplicitInverse
from .coupling import AdditiveCoupling

# Multiples of the step below LARGEST have all their bits in the mantissa of the dtype.
LARGEST = 2.0**11


def grid_step(dtype: torch.dtype) -> float:
    """2^-13 in float32, 2^-42 in float64."""
    return torch.finfo(dtype).eps * LARGEST / 2


def to_grid(x: Tensor) -> Tensor:
    """The nearest multiple of the step; its gradient is that of x."""
    if transformed() or torch.compiler.is_compiling():
        return x + (_ToGrid.forward(x) - x).detach()  # exact: below LARGEST both are multiples of what x is rounded to
    return _ToGrid.apply(x)


class _ToGrid(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        step = grid_step(x.dtype)
        return (x * (1 / step)).round_().mul_(step)  # powers of two: exact but for the rounding

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing to keep."""

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


def is_exact(*terms: Tensor) -> Tensor:
    """Whether sums of these are exact: all of them on the grid and below LARGEST, shape (B,)."""
    return torch.stack([((to_grid(x) == x) & (x.abs() < LARGEST)).flatten(1).all(1) for x in terms]).all(0)


class ToGrid(ExplicitInverse):
    """Rounds the numbers of x to the grid. The inverse is the identity, off by half a step in every channel.

    The log-determinant, 0, is that of the map without the rounding.
    """

    def transform(self, x: Tensor, weights: tuple) -> Tensor:
        return to_grid(x)

    def solve(self, y: Tensor, weights: tuple) -> Tensor:
        return y

    def accuracy(self, y: tuple[Tensor, ...], x: Tensor, stored: tuple[Tensor, ...], weights: tuple) -> Accuracy:
        # beyond LARGEST numbers are coarser than the grid, and rounded as all numbers are
        rounding = torch.full_like(x, grid_step(x.dtype) / 2).double() + stored[0]
        rounding = max_token_norm(rounding) + torch.where(
            is_exact(y[0]), 0, 4 * unit_roundoff(x.dtype)
        ) * max_token_norm(x)
        return Accuracy(max_token_norm(y[0] - to_grid(y[0])), rounding, rounding)

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        return float('inf'), 1.0  # rounding is not continuous


class GridCoupling(AdditiveCoupling):
    """``y2 = x2 + round(t(x1))`` on a stream that :class:`ToGrid` began: the error of the inverse is 0.

    That holds as long as ``net`` gives the same output for the same input: in the same batch (kernels may sum in
    another order for another size of it), on the same device, with the same settings. Where y is not on the grid, or
    beyond its range, the error is that of :class:`AdditiveCoupling`.
    """

    def call_net(self, passed: Tensor, changed: Tensor) -> Tensor:
        return to_grid(super().call_net(passed, changed))

    def accuracy(self, y: tuple[Tensor, ...], x: Tensor, stored: tuple[Tensor, ...], weights: tuple) -> Accuracy:
        found = super().accuracy(y, x, stored, weights)
        exact = is_exact(x, y[0]) & (found.residual == 0) & (max_token_norm(stored[0]) == 0)
        return Accuracy(found.residual, *(torch.where(exact, 0, each) for each in found[1:]))

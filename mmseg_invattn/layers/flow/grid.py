"""Couplings on a grid: reversible bit by bit, for sub-networks of any Lipschitz constant.

In floating point ``(x2 + t(x1)) - t(x1)`` is x2 up to a rounding error, so the next coupling evaluates its sub-network
at slightly wrong numbers; the effect of this is not bounded. If instead every number of the stream is a multiple of the
same step, a power of two,

    y1 = x1,   y2 = x2 + round(t(x1))          x2 = y2 - round(t(y1))

sums and differences are exact (below 2048, in float32 and in float64). So x1 and x2 are recovered bit by bit, and so
are the inputs of all layers before. The only error is the rounding of the image to the grid, at most half a step: 6e-5
in float32, at most 1/140 of a grey level with the usual normalisation. Gradients ignore the rounding.

Fixed-point numbers in reversible networks are due to MacKay et al., https://arxiv.org/abs/1810.10999.
"""

import torch
from torch import Tensor

from ...ops import max_token_norm, unit_roundoff
from ...ops.second_derivative import transformed
from ..explicit import Accuracy, ExplicitInverse
from .coupling import AdditiveCoupling

# Multiples of the step below LARGEST are represented exactly in the dtype.
LARGEST = 2.0**11


def grid_step(dtype: torch.dtype) -> float:
    """The step of the grid: 2^-13 in float32, 2^-42 in float64."""
    return torch.finfo(dtype).eps * LARGEST / 2


def to_grid(x: Tensor) -> Tensor:
    """Rounds to the nearest multiple of the step; the gradient passes unchanged."""
    if transformed() or torch.compiler.is_compiling():
        return x + (_ToGrid.forward(x) - x).detach()  # exact: both terms are multiples of the last digit of x
    return _ToGrid.apply(x)


class _ToGrid(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        step = grid_step(x.dtype)
        return (x * (1 / step)).round_().mul_(step)  # exact except for round_(), since the step is a power of two

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing to keep."""

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


def is_exact(*terms: Tensor) -> Tensor:
    """Whether sums of these tensors are exact, because all numbers are on the grid and below LARGEST; shape (B,)."""
    return torch.stack([((to_grid(x) == x) & (x.abs() < LARGEST)).flatten(1).all(1) for x in terms]).all(0)


class ToGrid(ExplicitInverse):
    """Rounds the numbers of x to the grid. The inverse is the identity, with an error of up to half a step per number.

    The log-determinant, 0, is that of the map without the rounding.
    """

    def transform(self, x: Tensor, weights: tuple) -> Tensor:
        return to_grid(x)

    def solve(self, y: Tensor, weights: tuple) -> Tensor:
        return y

    def accuracy(self, y: tuple[Tensor, ...], x: Tensor, stored: tuple[Tensor, ...], weights: tuple) -> Accuracy:
        # numbers beyond LARGEST are coarser than the grid and have the rounding errors of ordinary numbers
        rounding = torch.full_like(x, grid_step(x.dtype) / 2).double() + stored[0]
        rounding = max_token_norm(rounding) + torch.where(
            is_exact(y[0]), 0, 4 * unit_roundoff(x.dtype)
        ) * max_token_norm(x)
        return Accuracy(max_token_norm(y[0] - to_grid(y[0])), rounding, rounding)

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        return float('inf'), 1.0  # rounding is not continuous


class GridCoupling(AdditiveCoupling):
    """``y2 = x2 + round(t(x1))``, to be used after :class:`ToGrid`: the error of the inverse is 0.

    This holds as long as ``net`` gives the same output for the same input: with the same batch size (kernels may sum in
    another order for another one), on the same device, with the same settings. If y is not on the grid, or is outside
    its range, the error bound is that of :class:`AdditiveCoupling`.
    """

    def call_net(self, passed: Tensor, changed: Tensor) -> Tensor:
        return to_grid(super().call_net(passed, changed))

    def accuracy(self, y: tuple[Tensor, ...], x: Tensor, stored: tuple[Tensor, ...], weights: tuple) -> Accuracy:
        found = super().accuracy(y, x, stored, weights)
        exact = is_exact(x, y[0]) & (found.residual == 0) & (max_token_norm(stored[0]) == 0)
        return Accuracy(found.residual, *(torch.where(exact, 0, each) for each in found[1:]))

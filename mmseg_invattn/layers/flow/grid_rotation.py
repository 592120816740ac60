"""Orthogonal matrices as products of shears, which are exact on a grid.

A product with a K x K matrix Q would have to be rounded, and the rounding could not be undone. So Q is written as
K (K - 1) / 2 rotations of two numbers by an angle a, and each rotation as three shears (Daubechies and Sweldens,
Factoring Wavelet Transforms into Lifting Steps, 1998), with all additions on the grid of :mod:`.grid`:

    u <- u - round(tan(a/2) v),    v <- v + round(sin(a) u),    u <- u - round(tan(a/2) v)

Every shear is undone exactly by the opposite sign. Gradients ignore the rounding: they are those of the product with Q.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ...ops.second_derivative import recorded, transformed
from .grid import to_grid


@cache
def rounds(size: int) -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """Rotations that reduce a matrix to a triangular one, in rounds of disjoint pairs.

    Each is (i, j, column): rows i and j are rotated so that row j gets a zero in the column. A round pairs all rows
    that have the same number of zeros, so there are fewer than 2 K rounds; 4 for K = 4.
    """
    zeros, all_rounds = [0] * size, []
    while zeros != list(range(size)):
        line = []
        for column in range(size):
            rows = [row for row in range(size) if zeros[row] == column]
            line += [(i, j, column) for i, j in zip(rows[::2], rows[1::2], strict=False)]
        for _, j, column in line:
            zeros[j] = column + 1
        all_rounds.append(tuple(line))
    return tuple(all_rounds)


@cache
def pairs(size: int) -> tuple[tuple[int, int, int], ...]:
    """The rotations of all rounds, in their order."""
    return tuple(pair for line in rounds(size) for pair in line)


def growth(size: int) -> float:
    """How much larger than the rounding of one shear the error of ``Q x`` can be, in the Euclidean norm.

    An error of one shear grows by at most 1.62 = |[1 1; 0 1]| in each of the other two, and in no later rotation.
    """
    return len(rounds(size)) * (1 + 1.62 + 2.62)


class Rotation(NamedTuple):
    """Q of every channel, and the shears that it is made of.

    Attributes:
        matrix: Q, shape (C, K, K), float64, differentiable.
        tangent, sine, sign: of each rotation, shape (K (K - 1) / 2, C), float64. An angle beyond a right angle is
            replaced by the opposite direction with the sign -1.
    """

    matrix: Tensor
    tangent: Tensor
    sine: Tensor
    sign: Tensor


@torch.no_grad()
def shears_of(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(tangent, sine, sign) of the rotations whose product is the matrix: its QR decomposition by Givens rotations."""
    rest, angles = matrix.detach().clone(), []
    for i, j, column in pairs(matrix.shape[-1]):
        angle = torch.atan2(rest[:, j, column], rest[:, i, column])
        sine, cosine = angle.sin()[:, None], angle.cos()[:, None]
        upper, lower = rest[:, i].clone(), rest[:, j].clone()
        rest[:, i], rest[:, j] = cosine * upper + sine * lower, cosine * lower - sine * upper
        angles.append(angle)
    angle = torch.stack(angles)
    far = angle.abs() > torch.pi / 2
    angle = torch.where(far, angle - torch.pi * angle.sign(), angle)
    return (angle / 2).tan(), angle.sin(), torch.where(far, -1.0, 1.0).to(angle)


def lifted(x_BCKHW: Tensor, rotation: Rotation, back: bool = False) -> Tensor:
    """``Q x`` by shears on the grid, or exactly the inverse of that map."""
    out = x_BCKHW.clone(memory_format=torch.contiguous_format)
    parts, order = out.unbind(2), pairs(out.shape[2])
    tangent, sine, sign = (each.to(out.dtype)[:, :, None, None] for each in rotation[1:])
    for k in range(len(order)) if back else reversed(range(len(order))):
        u, v = (parts[i] for i in order[k][:2])
        if back:
            u.mul_(sign[k]).add_(to_grid(tangent[k] * v.mul_(sign[k])))
            v.sub_(to_grid(sine[k] * u))
            u.add_(to_grid(tangent[k] * v))
        else:
            u.sub_(to_grid(tangent[k] * v))
            v.add_(to_grid(sine[k] * u))
            u.sub_(to_grid(tangent[k] * v)).mul_(sign[k])
            v.mul_(sign[k])
    return out


def product(x_BCKHW: Tensor, matrix_CKK: Tensor, back: bool = False) -> Tensor:
    """``Q x`` or ``Q^T x``, not on the grid."""
    matrix_CKK = (matrix_CKK.transpose(1, 2) if back else matrix_CKK).to(x_BCKHW.dtype)
    return torch.matmul(matrix_CKK, _as_columns(x_BCKHW)).view(x_BCKHW.shape)


def _as_columns(x_BCKHW: Tensor) -> Tensor:
    """(B, C, K, H W); by operators that a Jacobian can vectorise."""
    return x_BCKHW.contiguous().view(*x_BCKHW.shape[:3], -1)


class _Lifted(torch.autograd.Function):
    """:func:`lifted` with the derivative of :func:`product`."""

    @staticmethod
    def forward(x: Tensor, matrix: Tensor, rotation: Rotation, back: bool) -> Tensor:
        return lifted(x, rotation, back)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        x, matrix, _, ctx.back = inputs
        ctx.save_for_backward(x, matrix)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, matrix = ctx.saved_tensors
        d_matrix = torch.matmul(_as_columns(grad), _as_columns(x).transpose(2, 3)).sum(0).to(matrix.dtype)
        return product(grad, matrix, not ctx.back), d_matrix.transpose(1, 2) if ctx.back else d_matrix, None, None


def rotated(x: Tensor, rotation: Rotation, back: bool = False) -> Tensor:
    """:func:`lifted`, differentiable in x and in Q."""
    if not recorded(x, rotation.matrix) and not transformed():
        return lifted(x, rotation, back)
    if transformed() or torch.compiler.is_compiling():
        y = product(x, rotation.matrix, back)
        return to_grid(y + (lifted(x, rotation, back) - y).detach())
    return _Lifted.apply(x, rotation.matrix, rotation, back)

"""Learnable orthogonal down- and upsampling that is exact on a grid.

Every channel has an orthogonal matrix Q of its own. It turns a block of 2 x 2 pixels into 4 channels of one pixel,
which is a convolution with an orthogonal kernel of size 2 and stride 2:

    down   y = Q (x_00, x_01, x_10, x_11)         up   (x_00, x_01, x_10, x_11) = Q^T y

At the start Q is the Haar wavelet transform (mean and differences), or the identity (space to depth).

A product with Q would have to be rounded, and the rounding could not be undone. So Q is written as six rotations of two
numbers by an angle a, and each rotation as three shears (Daubechies and Sweldens, Factoring Wavelet Transforms into
Lifting Steps, 1998), with all additions on the grid of :mod:`.grid`:

    u <- u - round(tan(a/2) v),    v <- v + round(sin(a) u),    u <- u - round(tan(a/2) v)

Every shear is undone exactly by the opposite sign. Gradients ignore the rounding: they are those of the product with Q.
Down- and upsampling of invertible U-Nets by orthogonal convolutions: Etmann et al., https://arxiv.org/abs/2005.05220.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops import InverseStep, Move, Step, full_precision, max_token_norm, unit_roundoff
from ...ops.second_derivative import recorded, transformed
from ...wording import counted
from ..checks import check_choice
from ..constant_weights import weights_of
from ..explicit import Accuracy, ExplicitInverse
from ..orthogonal import OrthogonalMatrix
from .grid import LARGEST, grid_step, is_exact, to_grid

# Pairs of the 4 numbers, in an order in which rotations reduce a 4 x 4 matrix to a triangular one, with the column in
# which each makes a zero. Pairs of one line can be rotated at once.
ROUNDS = (((0, 1, 0), (2, 3, 0)), ((0, 2, 0), (1, 3, 1)), ((1, 2, 1),), ((2, 3, 2),))
PAIRS = tuple(pair for line in ROUNDS for pair in line)
# An error of one shear grows by at most 1.62 = |[1 1; 0 1]| in each of the other two, and in no later rotation; there
# are 4 rounds of 3 shears.
GROWTH = 4 * (1 + 1.62 + 2.62)

STARTS = ('haar', 'space_to_depth')


class Rotation(NamedTuple):
    """Q of every channel, and the shears that it is made of.

    Attributes:
        matrix: Q, shape (C, 4, 4), float64, differentiable.
        tangent, sine, sign: of each of the six rotations, shape (6, C), float64. An angle beyond a right angle is
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
    for i, j, column in PAIRS:
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
    """``Q x`` by shears on the grid, or exactly the inverse of that map; K = 4."""
    out = x_BCKHW.clone(memory_format=torch.contiguous_format)
    parts = out.unbind(2)
    tangent, sine, sign = (each.to(out.dtype)[:, :, None, None] for each in rotation[1:])
    for k in range(len(PAIRS)) if back else reversed(range(len(PAIRS))):
        u, v = (parts[i] for i in PAIRS[k][:2])
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


def blocks(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 4, H/2, W/2)."""
    return F.pixel_unshuffle(x, 2).unflatten(1, (x.shape[1], 4))


def unblocked(x: Tensor) -> Tensor:
    """(B, C, 4, H, W) -> (B, C, 2 H, 2 W)."""
    return F.pixel_shuffle(x.flatten(1, 2), 2)


class _GridResampling(ExplicitInverse):
    """Base class of down- and upsampling.

    Args:
        channels: C, the number of channels at the higher resolution; it is 4 C at the lower one.
        start: ``'haar'``: the first of 4 channels begins as twice the mean of the 4 pixels, the others as differences;
            ``'space_to_depth'``: each of the 4 channels begins as one of the pixels.
    """

    def __init__(self, channels: int, start: Literal['haar', 'space_to_depth'] = 'haar'):
        super().__init__()
        check_choice('start', start, STARTS)
        self.fine_channels = channels
        quarter = torch.tensor([[1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64) / 2**0.5
        matrix = torch.kron(quarter, quarter) if start == 'haar' else torch.eye(4, dtype=torch.float64)
        self.matrix = OrthogonalMatrix(4, matrix.expand(channels, 4, 4))

    def weights(self) -> Rotation:
        with full_precision(self.matrix.generator.device):
            matrix = self.matrix()
            return Rotation(matrix, *shears_of(matrix))

    def kernel(self) -> Tensor:
        """Q as the weight of ``conv2d(x, weight, stride=2, groups=C)``, shape (4 C, 1, 2, 2), float64."""
        return self.weights().matrix.reshape(-1, 1, 2, 2)

    def down(self, x: Tensor, weights: Rotation, of_forward: bool) -> Tensor:
        if x.shape[1] != self.fine_channels or x.shape[2] % 2 or x.shape[3] % 2:
            height, width = (n + n % 2 for n in x.shape[2:])
            raise ValueError(
                f'got features of shape {tuple(x.shape)}; {self._what(of_forward)} takes (B, {self.fine_channels}, H, '
                f'W) with even H and W: pad your images so that the map becomes {height} x {width}, or build it for '
                f'{counted(x.shape[1], "channel")}'
            )
        return rotated(blocks(x), weights).flatten(1, 2)

    def up(self, x: Tensor, weights: Rotation, of_forward: bool) -> Tensor:
        if x.shape[1] != 4 * self.fine_channels:
            raise ValueError(
                f'got features of shape {tuple(x.shape)}; {self._what(of_forward)} takes '
                f'{4 * self.fine_channels} channels'
            )
        return unblocked(rotated(x.unflatten(1, (self.fine_channels, 4)), weights, back=True))

    def _what(self, of_forward: bool) -> str:
        return f'{"" if of_forward else "the inverse of "}{type(self).__name__}({self.fine_channels})'

    def _residual_and_rounding(
        self, y: Tensor, x: Tensor, stored: Tensor, coarse: Tensor, exact_y: Tensor, again: Tensor
    ) -> list[Tensor]:
        """(residual, bound of the rounding) in the norm of y, shape (B,); both are 0 where nothing was rounded.

        Args:
            coarse: whichever of x and y has the lower resolution: the map rotates its tokens.
            exact_y: ``Q x`` in float64.
            again: ``Q x`` on the grid.
        """
        # a number on the way is at most 2.62 times the norm of 4 numbers, which is at most 2 times the largest of them
        largest = torch.maximum(*(each.abs().flatten(1).amax(1) for each in (x, y)))
        exact = is_exact(x, y) & (largest < LARGEST / 8) & (max_token_norm(stored) == 0)
        exact &= (again == y).flatten(1).all(1)
        per_shear = grid_step(x.dtype) * self.fine_channels**0.5 + 8 * unit_roundoff(x.dtype) * max_token_norm(coarse)
        rounding = GROWTH * per_shear.double() + max_token_norm(stored)
        return [torch.where(exact, 0, each) for each in (max_token_norm(y.double() - exact_y), rounding)]

    def extra_repr(self) -> str:
        return str(self.fine_channels)


class GridDownsample(_GridResampling):
    """(B, C, H, W) -> (B, 4 C, H/2, W/2) by an orthogonal convolution of each channel, exact behind :class:`ToGrid`.

    In the norm inf2 ``Lip(f) = 2`` (a token of y consists of 4 tokens of x) and ``Lip(f^-1) = 1``, apart from the
    rounding to the grid. The log-determinant, 0, is that of the map without rounding.

    Raises:
        ValueError: height or width is odd. Padding inside would not be invertible.
    """

    def transform(self, x: Tensor, weights: Rotation) -> Tensor:
        return self.down(x, weights, of_forward=True)

    def solve(self, y: Tensor, weights: Rotation) -> Tensor:
        return self.up(y, weights, of_forward=False)

    def accuracy(self, y: tuple[Tensor, ...], x: Tensor, stored: tuple[Tensor, ...], weights: Rotation) -> Accuracy:
        exact_y = product(blocks(x.double()), weights.matrix.detach()).flatten(1, 2)
        residual, rounding = self._residual_and_rounding(y[0], x, stored[0], y[0], exact_y, self.transform(x, weights))
        return Accuracy(residual, rounding, residual + rounding)

    def steps(self, tol: float | None, max_iter: int) -> Sequence[Step | Move]:
        return [_step(self, lambda x, q: product(blocks(x), q.matrix).flatten(1, 2))]

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        return 2.0, 1.0


class GridUpsample(_GridResampling):
    """(B, 4 C, H, W) -> (B, C, 2 H, 2 W): the inverse map of a :class:`GridDownsample`, with parameters of its own.

    In the norm inf2 ``Lip(f) = 1`` and ``Lip(f^-1) = 2``, apart from the rounding to the grid; log-determinant 0.
    """

    def transform(self, x: Tensor, weights: Rotation) -> Tensor:
        return self.up(x, weights, of_forward=True)

    def solve(self, y: Tensor, weights: Rotation) -> Tensor:
        return self.down(y, weights, of_forward=False)

    def accuracy(self, y: tuple[Tensor, ...], x: Tensor, stored: tuple[Tensor, ...], weights: Rotation) -> Accuracy:
        exact_y = unblocked(product(x.double().unflatten(1, (self.fine_channels, 4)), weights.matrix.detach(), True))
        residual, rounding = self._residual_and_rounding(y[0], x, stored[0], x, exact_y, self.transform(x, weights))
        # a token of x consists of 4 tokens of y
        return Accuracy(residual, rounding, 2 * (residual + rounding))

    def steps(self, tol: float | None, max_iter: int) -> Sequence[Step | Move]:
        return [_step(self, lambda x, q: unblocked(product(x.unflatten(1, (self.fine_channels, 4)), q.matrix, True)))]

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        return 1.0, 2.0


def _step(layer: _GridResampling, linear: Callable[[Tensor, Rotation], Tensor]) -> InverseStep:
    """The step of a memory-free pass: going back differentiates the product and needs no values on the grid.

    Args:
        linear: (x, weights) -> the map without rounding.
    """

    def evaluate(x: Tensor, weights: Rotation | None) -> tuple[Tensor, ...]:
        return (layer(x) if weights is None else linear(x, weights),)

    def recover(y: tuple[Tensor, ...], weights: Rotation, mean: Tensor | None) -> Tensor:
        with full_precision(y[0].device):
            return layer.solve(y[0], weights)

    return InverseStep(evaluate, recover, lambda: weights_of(layer), lambda: tuple(layer.parameters()))

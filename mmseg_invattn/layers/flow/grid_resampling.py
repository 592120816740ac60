"""Learnable orthogonal down- and upsampling that is exact on a grid.

Every channel has an orthogonal matrix Q of its own. It turns a block of r x r pixels into r^2 channels of one pixel,
which is a convolution with an orthogonal kernel of size r and stride r. For r = 2:

    down   y = Q (x_00, x_01, x_10, x_11)         up   (x_00, x_01, x_10, x_11) = Q^T y

At the start Q is the Haar wavelet transform (mean and differences; for r = 2), or the identity (space to depth).

Q is applied as a product of shears (:mod:`.grid_rotation`), so that everything is exact on the grid of :mod:`.grid`.
Down- and upsampling of invertible U-Nets by orthogonal convolutions: Etmann et al., https://arxiv.org/abs/2005.05220.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops import InverseStep, Move, Step, full_precision, max_token_norm, unit_roundoff
from ...wording import counted
from ..checks import check_choice, check_count
from ..constant_weights import weights_of
from ..explicit import Accuracy, ExplicitInverse
from ..orthogonal import OrthogonalMatrix
from .grid import LARGEST, grid_step, is_exact
from .grid_rotation import Rotation, growth, product, rotated, shears_of

STARTS = ('haar', 'space_to_depth')


def blocks(x: Tensor, stride: int) -> Tensor:
    """(B, C, H, W) -> (B, C, r^2, H/r, W/r)."""
    return F.pixel_unshuffle(x, stride).unflatten(1, (x.shape[1], stride**2))


def unblocked(x: Tensor, stride: int) -> Tensor:
    """(B, C, r^2, H, W) -> (B, C, r H, r W)."""
    return F.pixel_shuffle(x.flatten(1, 2), stride)


class _GridResampling(ExplicitInverse):
    """Base class of down- and upsampling.

    Args:
        channels: C, the number of channels at the higher resolution; it is ``C r^2`` at the lower one.
        start: ``'haar'``: the first of 4 channels begins as twice the mean of the 4 pixels, the others as differences;
            ``'space_to_depth'``: each of the r^2 channels begins as one of the pixels.
        stride: r, at least 2. A matrix is computed by ``3 r^2 (r^2 - 1) / 2`` shears, 18 for r = 2 and 360 for r = 4.

    Raises:
        ValueError: an argument breaks its rule, or the start is ``'haar'`` and the stride is not 2.
    """

    def __init__(self, channels: int, start: Literal['haar', 'space_to_depth'] = 'haar', stride: int = 2):
        super().__init__()
        check_count('channels', channels)
        check_choice('start', start, STARTS)
        check_count('stride', stride)
        if stride == 1:
            raise ValueError('stride=1 would keep the resolution: choose at least 2')
        if start == 'haar' and stride != 2:
            raise ValueError(f"start='haar' is for blocks of 2 x 2: stride={stride} needs start='space_to_depth'")
        self.fine_channels, self.stride = channels, stride
        quarter = torch.tensor([[1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64) / 2**0.5
        matrix = torch.kron(quarter, quarter) if start == 'haar' else torch.eye(stride**2, dtype=torch.float64)
        self.matrix = OrthogonalMatrix(stride**2, matrix.expand(channels, -1, -1))

    def weights(self) -> Rotation:
        with full_precision(self.matrix.generator.device):
            matrix = self.matrix()
            return Rotation(matrix, *shears_of(matrix))

    def kernel(self) -> Tensor:
        """Q as the weight of ``conv2d(x, weight, stride=r, groups=C)``, shape (C r^2, 1, r, r), float64."""
        return self.weights().matrix.reshape(-1, 1, self.stride, self.stride)

    def down(self, x: Tensor, weights: Rotation, of_forward: bool) -> Tensor:
        r = self.stride
        if x.shape[1] != self.fine_channels or x.shape[2] % r or x.shape[3] % r:
            height, width = (-(-n // r) * r for n in x.shape[2:])
            raise ValueError(
                f'got features of shape {tuple(x.shape)}; {self._what(of_forward)} takes (B, {self.fine_channels}, H, '
                f'W) with H and W that are multiples of {r}: pad your images so that the map becomes {height} x '
                f'{width}, or build it for {counted(x.shape[1], "channel")}'
            )
        return rotated(blocks(x, r), weights).flatten(1, 2)

    def up(self, x: Tensor, weights: Rotation, of_forward: bool) -> Tensor:
        if x.shape[1] != self.stride**2 * self.fine_channels:
            raise ValueError(
                f'got features of shape {tuple(x.shape)}; {self._what(of_forward)} takes '
                f'{self.stride**2 * self.fine_channels} channels'
            )
        return unblocked(rotated(self._grouped(x), weights, back=True), self.stride)

    @abstractmethod
    def linear(self, x: Tensor, matrix: Tensor) -> Tensor:
        """The map without rounding, in the dtype of x."""

    def steps(self, tol: float | None, max_iter: int) -> Sequence[Step | Move]:
        """Going back differentiates the map without rounding and needs no values on the grid."""

        def evaluate(x: Tensor, weights: Rotation | None) -> tuple[Tensor, ...]:
            return (self(x) if weights is None else self.linear(x, weights.matrix),)

        def recover(y: tuple[Tensor, ...], weights: Rotation, mean: Tensor | None) -> Tensor:
            with full_precision(y[0].device):
                return self.solve(y[0], weights)

        return [InverseStep(evaluate, recover, lambda: weights_of(self), lambda: tuple(self.parameters()))]

    def _grouped(self, x: Tensor) -> Tensor:
        """(B, C r^2, H, W) -> (B, C, r^2, H, W)."""
        return x.unflatten(1, (self.fine_channels, self.stride**2))

    def _what(self, of_forward: bool) -> str:
        return f'{"" if of_forward else "the inverse of "}{type(self).__name__}({self.extra_repr()})'

    def _residual_and_rounding(
        self, y: Tensor, x: Tensor, stored: Tensor, coarse: Tensor, exact_y: Tensor, again: Tensor
    ) -> list[Tensor]:
        """(residual, bound of the rounding) in the norm of y, shape (B,); both are 0 where nothing was rounded.

        Args:
            coarse: whichever of x and y has the lower resolution: the map rotates its tokens.
            exact_y: ``Q x`` in float64.
            again: ``Q x`` on the grid.
        """
        # a number on the way is at most 2.62 times the norm of r^2 numbers, and that at most r times the largest
        largest = torch.maximum(*(each.abs().flatten(1).amax(1) for each in (x, y)))
        exact = is_exact(x, y) & (largest < LARGEST / (4 * self.stride)) & (max_token_norm(stored) == 0)
        exact &= (again == y).flatten(1).all(1)
        step = grid_step(x.dtype) * self.stride / 2
        per_shear = step * self.fine_channels**0.5 + 8 * unit_roundoff(x.dtype) * max_token_norm(coarse)
        rounding = growth(self.stride**2) * per_shear.double() + max_token_norm(stored)
        return [torch.where(exact, 0, each) for each in (max_token_norm(y.double() - exact_y), rounding)]

    def extra_repr(self) -> str:
        return f'{self.fine_channels}, stride={self.stride}'


class GridDownsample(_GridResampling):
    """(B, C, H, W) -> (B, C r^2, H/r, W/r) by an orthogonal convolution of each channel, exact behind :class:`ToGrid`.

    In the norm inf2 ``Lip(f) = r`` (a token of y consists of r^2 tokens of x) and ``Lip(f^-1) = 1``, apart from the
    rounding to the grid. The log-determinant, 0, is that of the map without rounding. Height and width have to be
    multiples of r, because padding inside would not be invertible.
    """

    def transform(self, x: Tensor, weights: Rotation) -> Tensor:
        return self.down(x, weights, of_forward=True)

    def solve(self, y: Tensor, weights: Rotation) -> Tensor:
        return self.up(y, weights, of_forward=False)

    def accuracy(self, y: tuple[Tensor, ...], x: Tensor, stored: tuple[Tensor, ...], weights: Rotation) -> Accuracy:
        exact_y = self.linear(x.double(), weights.matrix.detach())
        residual, rounding = self._residual_and_rounding(y[0], x, stored[0], y[0], exact_y, self.transform(x, weights))
        return Accuracy(residual, rounding, residual + rounding)

    def linear(self, x: Tensor, matrix: Tensor) -> Tensor:
        return product(blocks(x, self.stride), matrix).flatten(1, 2)

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        return float(self.stride), 1.0


class GridUpsample(_GridResampling):
    """(B, C r^2, H, W) -> (B, C, r H, r W): the inverse map of a :class:`GridDownsample`, with parameters of its own.

    In the norm inf2 ``Lip(f) = 1`` and ``Lip(f^-1) = r``, apart from the rounding to the grid; log-determinant 0.
    """

    def transform(self, x: Tensor, weights: Rotation) -> Tensor:
        return self.up(x, weights, of_forward=True)

    def solve(self, y: Tensor, weights: Rotation) -> Tensor:
        return self.down(y, weights, of_forward=False)

    def accuracy(self, y: tuple[Tensor, ...], x: Tensor, stored: tuple[Tensor, ...], weights: Rotation) -> Accuracy:
        exact_y = self.linear(x.double(), weights.matrix.detach())
        residual, rounding = self._residual_and_rounding(y[0], x, stored[0], x, exact_y, self.transform(x, weights))
        # a token of x consists of r^2 tokens of y
        return Accuracy(residual, rounding, self.stride * (residual + rounding))

    def linear(self, x: Tensor, matrix: Tensor) -> Tensor:
        return unblocked(product(self._grouped(x), matrix, back=True), self.stride)

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        return 1.0, float(self.stride)

"""Learnable orthogonal down- and upsampling that is exact on a grid.

Every channel has an orthogonal matrix Q of its own. It turns a block of 2 x 2 pixels into 4 channels of one pixel,
which is a convolution with an orthogonal kernel of size 2 and stride 2:

    down   y = Q (x_00, x_01, x_10, x_11)         up   (x_00, x_01, x_10, x_11) = Q^T y

At the start Q is the Haar wavelet transform (mean and differences), or the identity (space to depth).

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
from ..checks import check_choice
from ..constant_weights import weights_of
from ..explicit import Accuracy, ExplicitInverse
from ..orthogonal import OrthogonalMatrix
from .grid import LARGEST, grid_step, is_exact
from .grid_rotation import GROWTH, Rotation, product, rotated, shears_of

STARTS = ('haar', 'space_to_depth')


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
        exact_y = self.linear(x.double(), weights.matrix.detach())
        residual, rounding = self._residual_and_rounding(y[0], x, stored[0], y[0], exact_y, self.transform(x, weights))
        return Accuracy(residual, rounding, residual + rounding)

    def linear(self, x: Tensor, matrix: Tensor) -> Tensor:
        return product(blocks(x), matrix).flatten(1, 2)

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
        exact_y = self.linear(x.double(), weights.matrix.detach())
        residual, rounding = self._residual_and_rounding(y[0], x, stored[0], x, exact_y, self.transform(x, weights))
        # a token of x consists of 4 tokens of y
        return Accuracy(residual, rounding, 2 * (residual + rounding))

    def linear(self, x: Tensor, matrix: Tensor) -> Tensor:
        return unblocked(product(x.unflatten(1, (self.fine_channels, 4)), matrix, back=True))

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        return 1.0, 2.0

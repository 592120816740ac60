"""Orthogonal 1x1 convolution as an invertible layer: it rotates the channels and amplifies no error."""

from torch import Tensor

from ...ops import Roundoff, full_precision, max_token_norm
from ..certificate import unrotated
from ..explicit import Accuracy, ExplicitInverse
from ..orthogonal import OrthogonalMatrix, rotate


class OrthogonalConv1x1(ExplicitInverse):
    """``y_i = U x_i`` for every pixel, U orthogonal for all values of its parameters; log-determinant 0.

    :class:`InvConv1x1` may become ill-conditioned during training. The inverse of this layer is a transpose and does
    not change the norm of an error.

    Args:
        channels: C.
    """

    channels: int

    def __init__(self, channels: int):
        super().__init__()
        self.channels, self.matrix = channels, OrthogonalMatrix(channels)

    def weights(self) -> Tensor:
        """U, float64."""
        with full_precision(self.matrix.generator.device):
            return self.matrix()

    def transform(self, x: Tensor, weights: Tensor) -> Tensor:
        return rotate(x, weights)

    def solve(self, y: Tensor, weights: Tensor) -> Tensor:
        return rotate(y, weights, transpose=True)

    def accuracy(self, y: tuple[Tensor, ...], x: Tensor, stored: tuple[Tensor, ...], weights: Tensor) -> Accuracy:
        u = Roundoff.of(x.dtype).sums
        residual, rounding = unrotated(y[0].double(), x.double(), weights.to(x.dtype).double(), u)
        rounding = rounding + 2 * max_token_norm(stored[0])
        return Accuracy(residual, rounding, residual + rounding)

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        return 1.0, 1.0

    def extra_repr(self) -> str:
        return f'{self.channels}'

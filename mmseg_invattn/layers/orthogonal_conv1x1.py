"""Orthogonal 1x1 convolution as an invertible layer: chooses new axes for the channels and amplifies nothing."""
import torch
from torch import Tensor

from ..ops import Roulette, max_token_norm
from .base import check_features
from .explicit import ExplicitInverse
from .mixing import OrthogonalMix


class OrthogonalConv1x1(ExplicitInverse):
    """``y_i = U x_i`` for every pixel, U orthogonal for all values of its parameters; log-determinant 0.

    Where :class:`InvConv1x1` may become as ill-conditioned as training makes it, the inverse of this one is a
    transpose and keeps the norm of every error.

    Args:
        channels: C.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels, self.mix = channels, OrthogonalMix(channels)

    def transform(self, x: Tensor) -> Tensor:
        return self.mix(x)

    def recover(self, y: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        x = self.mix(y, transpose=True)
        # U is applied twice, each time a sum of C products: as independent errors, sqrt(C) of one
        size, eps_here = max_token_norm(y), torch.finfo(y.dtype).eps
        return x, max_token_norm(y - self.mix(x)), 4 * (eps + self.channels**0.5 * eps_here) * size

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        return 1.0, 1.0

    def log_abs_det(self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1) -> Tensor:
        check_features(x, self.channels)
        return torch.zeros(len(x), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)

    def extra_repr(self) -> str:
        return f'{self.channels}'

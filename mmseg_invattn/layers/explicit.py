"""Layers whose inverse and determinant have a closed form."""
from abc import abstractmethod

import torch
from torch import Tensor

from ..ops import Roulette, at_least_float32, full_precision, max_token_norm
from .base import InverseInfo, InvertibleModule, NotConvergedError, check_features


class ExplicitInverse(InvertibleModule):
    """An invertible layer without a solver.

    A subclass defines ``transform`` and ``recover``; this class checks the input, keeps both in the same precision
    (float32 or higher, no autocast, no TF32), and reports. A subclass may fix ``channels``.
    """
    channels: int | None = None
    evaluations = 0  # of a sub-network, for one inverse

    @abstractmethod
    def transform(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """y of an x in float32 or higher."""

    @abstractmethod
    def recover(self, y: Tensor | tuple[Tensor, ...], eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """(x, residual, error bound) of a y in float32 or higher that was stored with the relative precision eps."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        check_features(x, self.channels)
        with full_precision(x.device):
            y = self.transform(at_least_float32(x))
        return y.to(x.dtype) if isinstance(y, Tensor) else tuple(part.to(x.dtype) for part in y)

    @torch.no_grad()
    def inverse(self, y: Tensor | tuple[Tensor, ...], tol: float = 1e-6, max_iter: int = 100,
                strict: bool = True) -> tuple[Tensor, InverseInfo]:
        """As in the contract; a closed form reaches the precision of the dtype whatever ``tol`` and ``max_iter`` are.

        Raises:
            NotConvergedError: with ``strict``, where the layer is so ill-conditioned that x overflows or the error has
                no finite bound.
        """
        parts = (y, ) if isinstance(y, Tensor) else tuple(y)
        if len(parts) != 1 + self.extra_outputs:
            raise ValueError(f'the inverse of {type(self).__name__} got {len(parts)} tensors; it takes the '
                             f'{1 + self.extra_outputs} that forward returned')
        for part in parts:
            check_features(part, self.channels if len(parts) == 1 else None, finite=True)
        eps = max(torch.finfo(part.dtype).eps for part in parts)
        parts = tuple(at_least_float32(part) for part in parts)
        with full_precision(parts[0].device):
            x, residual, bound = self.recover(parts[0] if len(parts) == 1 else parts, eps)
        converged = bound.isfinite() & residual.isfinite() & x.isfinite().flatten(1).all(1)
        info = InverseInfo(torch.full_like(converged, self.evaluations, dtype=torch.long), residual,
                           torch.where(bound.isfinite(), bound, torch.nan), converged)
        if strict and not converged.all():
            raise NotConvergedError(
                f'the inverse of {type(self).__name__} overflows or is not known to any precision for '
                f'{int((~converged).sum())} of {len(x)} samples (Lip(f^-1) is at most '
                f'{self.bi_lipschitz_bound()[1]:.3g}): keep its weights better conditioned (a lower learning rate, '
                'weight decay), or pass strict=False', x, info)
        return x, info

    def lipschitz_bound(self) -> None:
        """There is no residual branch; :meth:`bi_lipschitz_bound` is what composes."""
        return None

    def log_abs_det_error_bound(self, x: Tensor, n_terms: int | str | Roulette = 10) -> float:
        return 0.0


def rounding(eps: float, *terms: Tensor) -> Tensor:
    """What rounding sums of a few such feature maps can change, in the norm inf2, shape (B,)."""
    return 4 * eps * sum(max_token_norm(term) for term in terms)

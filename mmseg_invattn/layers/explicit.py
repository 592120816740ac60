"""Layers whose inverse and determinant have a closed form."""

from abc import abstractmethod
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from ..ops import Roulette, at_least_float32, full_precision, max_token_norm
from ..wording import counted
from .constant_weights import started_weights, weights_of
from .contract import InverseInfo, InvertibleModule, NotConvergedError, check_features, outputs


class ExplicitInverse(InvertibleModule):
    """An invertible layer without a solver.

    A subclass defines ``transform``, ``solve`` and ``accuracy``; this class checks the input, keeps them in the same
    precision (float32 or higher, no autocast, no TF32), and reports.

    Attributes:
        channels: C, or None where any will do.
        evaluations: of a sub-network, for one inverse.
        wide_output: y stays in float32 where x has half precision, because rounding it would lose too much.
    """

    channels: int | None = None
    evaluations = 0
    wide_output = False

    @abstractmethod
    def transform(self, x: Tensor, weights: Any) -> Tensor | tuple[Tensor, ...]:
        """y of an x in float32 or higher."""

    @abstractmethod
    def solve(self, y: Tensor | tuple[Tensor, ...], weights: Any) -> Tensor:
        """x of a y in float32 or higher."""

    @abstractmethod
    def accuracy(self, y: Tensor | tuple[Tensor, ...], x: Tensor, eps: float, weights: Any) -> tuple[Tensor, Tensor]:
        """(residual, error bound) of that x, where y was stored with the relative precision eps."""

    def log_det(self, x: Tensor, weights: Any) -> Tensor:
        """``log|det|`` at an x in float32 or higher, shape (B,); 0 unless the layer says otherwise."""
        return torch.zeros(len(x), dtype=x.dtype, device=x.device)

    def working_dtype(self, x: Tensor) -> torch.dtype:
        """What x or y is computed in."""
        return torch.promote_types(x.dtype, torch.float32)

    def forward(self, x: Tensor, weights: Any = None) -> Tensor | tuple[Tensor, ...]:
        check_features(x, self.channels)
        weights = started_weights(self, x, weights)
        with full_precision(x.device):
            y = self.transform(x.to(self.working_dtype(x)), weights)
        return self._stored(y, x)

    @torch.no_grad()
    def inverse(
        self,
        y: Tensor | tuple[Tensor, ...],
        tol: float = 1e-6,
        max_iter: int = 100,
        strict: bool = True,
        weights: Any = None,
    ) -> tuple[Tensor, InverseInfo]:
        """As in the contract; a closed form reaches the precision of the dtype whatever ``tol`` and ``max_iter`` are.

        Raises:
            NotConvergedError: with ``strict``, where the layer is so ill-conditioned that x overflows or the error has
                no finite bound.
        """
        parts = outputs(y)
        if len(parts) != 1 + self.extra_outputs:
            raise ValueError(
                f'the inverse of {type(self).__name__} got {counted(len(parts), "tensor")}; it takes the '
                f'{1 + self.extra_outputs} that forward returned'
            )
        for part in parts:
            check_features(part, self.channels if len(parts) == 1 else None, finite=True)
        weights = weights_of(self, weights)
        eps = max(torch.finfo(part.dtype).eps for part in parts)
        parts = tuple(part.to(self.working_dtype(part)) for part in parts)
        y = parts[0] if len(parts) == 1 else parts
        with full_precision(parts[0].device):
            x = self.solve(y, weights)
            residual, bound = self.accuracy(y, x, eps, weights)
        converged = bound.isfinite() & residual.isfinite() & x.isfinite().flatten(1).all(1)
        info = InverseInfo(
            torch.full_like(converged, self.evaluations, dtype=torch.long),
            residual,
            torch.where(bound.isfinite(), bound, torch.nan),
            converged,
        )
        if strict and not converged.all():
            raise NotConvergedError(
                f'the inverse of {type(self).__name__} overflows or is not known to any precision for '
                f'{int((~converged).sum())} of {counted(len(x), "sample")} (Lip(f^-1) is at most '
                f'{self.bi_lipschitz_bound()[1]:.3g}): keep its weights better conditioned (a lower learning rate, '
                'weight decay), or pass strict=False',
                x,
                info,
            )
        return x, info

    @torch.no_grad()
    def recover_input(self, y: Tensor | tuple[Tensor, ...], tol: float, max_iter: int, weights: Any = None) -> Tensor:
        weights = weights_of(self, weights)
        wide = y.to(self.working_dtype(y)) if isinstance(y, Tensor) else tuple(map(at_least_float32, y))
        x = self.solve(wide, weights)
        # inverse says what is wrong
        return x if x.isfinite().all() else self.inverse(y, tol, max_iter, weights=weights)[0]

    def lipschitz_bound(self, n: int | None = None) -> float:
        """0.0: there is no residual branch; :meth:`bi_lipschitz_bound` is what composes."""
        return 0.0

    def forward_and_log_abs_det(
        self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1, weights: Any = None
    ) -> tuple[Tensor | tuple[Tensor, ...], Tensor]:
        check_features(x, self.channels)
        weights = started_weights(self, x, weights)
        with full_precision(x.device):
            y, log_det = self.transform_and_log_det(x.to(self.working_dtype(x)), weights)
        return self._stored(y, x), log_det

    def transform_and_log_det(self, x: Tensor, weights: Any) -> tuple[Tensor | tuple[Tensor, ...], Tensor]:
        """Both, for layers in which they share an evaluation."""
        return self.transform(x, weights), self.log_det(x, weights)

    def log_abs_det_error_bound(self, x: Tensor, n_terms: int | str | Roulette = 10) -> float:
        return 0.0

    def _stored(self, y: Tensor | tuple[Tensor, ...], x: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.wide_output:
            return y
        return y.to(x.dtype) if isinstance(y, Tensor) else tuple(part.to(x.dtype) for part in y)


def rounding(eps: float, *terms: Tensor) -> Tensor:
    """What rounding sums of a few such feature maps can change, in the norm inf2, shape (B,)."""
    return 4 * eps * reduce(add, (max_token_norm(term) for term in terms))

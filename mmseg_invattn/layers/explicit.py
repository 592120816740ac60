"""Layers whose inverse and determinant have a closed form."""

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ops import Roulette, at_least_float32, branch_precision, full_precision, max_token_norm, storage_error
from ..wording import counted
from .certificate import NOTHING, USEFUL
from .checks import check_features, check_finite_weights
from .constant_weights import started_weights, weights_of
from .contract import InverseInfo, InvertibleModule, NotConvergedError, assumed_precision, composed_error, outputs


class Accuracy(NamedTuple):
    """The accuracy of an explicit inverse; each field has shape (B,), float64, in the norm of the layer.

    Attributes:
        residual: ``|y - layer(x)|``.
        rounding: bound of the rounding error of the forward pass, in the units of y.
        bound: bound of the error of x, including the effect of residual and rounding.
    """

    residual: Tensor
    rounding: Tensor
    bound: Tensor


class ExplicitInverse(InvertibleModule):
    """An invertible layer without a solver.

    A subclass defines ``transform``, ``solve`` and ``accuracy``. This class checks the input, runs them in the same
    precision (float32 or higher, no autocast, no TF32), and makes the report. Map, forward pass and inverse are
    distinguished as in :mod:`.certificate`: ``accuracy`` computes the residual in float64, with exactly the weights of
    the forward pass.

    Attributes:
        channels: C, or None if any number is allowed.
        evaluations: evaluations of sub-networks for one inverse.
        precision: of sub-networks: ``'float32'``, or ``'autocast'``, with which the inverse follows autocast like the
            forward pass. Under the same autocast settings it subtracts exactly what the forward pass added.
        wide_output: whether y stays in float32 if x has half precision, because rounding y would lose too much.
    """

    channels: int | None = None
    evaluations = 0
    precision = 'float32'
    wide_output = False

    @abstractmethod
    def transform(self, x: Tensor, weights: Any) -> Tensor | tuple[Tensor, ...]:
        """Computes y from x, which is float32 or higher."""

    @abstractmethod
    def solve(self, y: Tensor | tuple[Tensor, ...], weights: Any) -> Tensor:
        """Computes x from y, which is float32 or higher."""

    @abstractmethod
    def accuracy(self, y: tuple[Tensor, ...], x: Tensor, stored: tuple[Tensor, ...], weights: Any) -> Accuracy:
        """How close x is to the input of the forward pass.

        Args:
            y: (trunk, extra outputs...), in the dtype in which the forward pass computes.
            x: the result of ``solve`` for y.
            stored: bound of the error of each number of y from being stored, float64; 0 without rounding.
            weights: as given to ``transform``.
        """

    def log_det(self, x: Tensor, weights: Any) -> Tensor:
        """``log|det|`` at x, which is float32 or higher, shape (B,); 0 unless a subclass overrides this."""
        return torch.zeros(len(x), dtype=x.dtype, device=x.device)

    def working_dtype(self, x: Tensor) -> torch.dtype:
        """The dtype in which the layer computes for this x or y."""
        return torch.promote_types(x.dtype, torch.float32)

    def forward(self, x: Tensor, weights: Any = None) -> Tensor | tuple[Tensor, ...]:
        check_features(x, self.channels)
        weights = started_weights(self, x, weights)
        with branch_precision(self.precision, x.device):
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
        certify: bool = True,
        error: Tensor | None = None,
    ) -> tuple[Tensor, InverseInfo]:
        """As in :class:`InvertibleModule`, but ``tol`` and ``max_iter`` have no effect: a closed form is always as
        accurate as the dtype allows.

        Without ``certify`` the residual is NaN too.

        Raises:
            NotConvergedError: with ``strict``, if the layer is so ill-conditioned that x overflows or that its error
                bound exceeds half of its size.
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
        wide = tuple(part.to(self.working_dtype(part)) for part in parts)
        with branch_precision(self.precision, wide[0].device):
            x = self.solve(wide[0] if len(wide) == 1 else wide, weights)
        with full_precision(wide[0].device):
            if certify:
                stored = tuple(storage_error(part, own.dtype) for part, own in zip(parts, wide, strict=True))
                found = self.accuracy(wide, x, stored, weights)
            else:
                found = Accuracy(*[torch.full((len(x),), torch.nan, dtype=torch.float64, device=x.device)] * 3)
        size = torch.stack([max_token_norm(part) for part in (x, *wide)]).amax(0).clamp(min=NOTHING)
        converged = x.isfinite().flatten(1).all(1) & (~found.bound.isnan() | (not certify))
        if certify:
            converged &= found.residual.isfinite() & (found.bound <= USEFUL * size)
        info = InverseInfo(
            torch.full_like(converged, self.evaluations, dtype=torch.long),
            found.residual,
            torch.where(found.bound.isfinite(), found.bound, torch.nan),
            converged,
            found.rounding,
            torch.zeros_like(found.bound),
            assumed_precision(self, wide[0].dtype),
        )
        if not converged.all():
            check_finite_weights(self)
        if strict and not converged.all():
            raise NotConvergedError(
                f'the inverse of {type(self).__name__} overflows, or its error bound is too large to be useful, for '
                f'{int((~converged).sum())} of {counted(len(x), "sample")} (Lip(f^-1) is at most '
                f'{self.bi_lipschitz_bound()[1]:.3g}): keep its weights better conditioned (a lower learning rate, '
                'weight decay), or pass strict=False',
                x,
                info,
            )
        if error is not None:
            info = info._replace(error_bound=composed_error(self, x, info, error, weights))
        return x, info

    @torch.no_grad()
    def recover_input(
        self, y: Tensor | tuple[Tensor, ...], tol: float, max_iter: int, weights: Any = None, mean: Tensor | None = None
    ) -> Tensor:
        weights = weights_of(self, weights)
        # no check for overflow, because it would wait for the device: the gradients will not be finite either
        wide = y.to(self.working_dtype(y)) if isinstance(y, Tensor) else tuple(map(at_least_float32, y))
        with branch_precision(self.precision, outputs(y)[0].device):
            return self.solve(wide, weights)

    def lipschitz_bound(self, n: int | None = None) -> float:
        """0.0, because there is no residual branch; for compositions use :meth:`bi_lipschitz_bound`."""
        return 0.0

    def forward_and_log_abs_det(
        self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1, weights: Any = None
    ) -> tuple[Tensor | tuple[Tensor, ...], Tensor]:
        check_features(x, self.channels)
        weights = started_weights(self, x, weights)
        with branch_precision(self.precision, x.device):
            y, log_det = self.transform_and_log_det(x.to(self.working_dtype(x)), weights)
        return self._stored(y, x), log_det

    def transform_and_log_det(self, x: Tensor, weights: Any) -> tuple[Tensor | tuple[Tensor, ...], Tensor]:
        """Both results; a layer overrides this if they can share an evaluation."""
        return self.transform(x, weights), self.log_det(x, weights)

    def log_abs_det_error_bound(self, x: Tensor, n_terms: int | str | Roulette = 10) -> Tensor:
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def _stored(self, y: Tensor | tuple[Tensor, ...], x: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.wide_output:
            return y
        return y.to(x.dtype) if isinstance(y, Tensor) else tuple(part.to(x.dtype) for part in y)


def nothing_lost(like: Tensor, stored: Tensor | None = None) -> Accuracy:
    """The accuracy of a layer that only moves numbers: the error of x is that of y, measured by the tokens of x.

    Args:
        like: x.
        stored: bound of the error of each number from being stored, in the layout of x.
    """
    exact = torch.zeros(len(like), dtype=torch.float64, device=like.device)
    return Accuracy(exact, exact, exact if stored is None else max_token_norm(stored))

"""The residual layer: everything that the blocks ``y = U (x + g(x))`` share.

g is the branch, with a certified ``Lip(g) <= L < 1`` in a norm of tokens, and U is an orthogonal 1x1 convolution or the
identity. So the inverse is the fixed point of ``x <- U^T y - g(x)``, and its residual certifies the result
(:mod:`.certificate`).

A subclass defines its weights, the branch, the bound of its Lipschitz constant, and what is known about the branch at
given features: a local bound and a bound of its rounding.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ops import (
    EXACT,
    FixedPointResult,
    Roulette,
    Roundoff,
    branch_and_log_abs_det,
    branch_precision,
    cast_all,
    differentiable_copies,
    full_precision,
    local_lipschitz,
    max_token_norm,
    storage_error,
    truncation_bound,
)
from .certificate import Assessment, certified, uncertified, unrotated
from .checks import check_features, check_finite_weights
from .constant_weights import cast_weights, held_weights, started_weights, weights_of
from .contract import InverseInfo, InvertibleModule, assumed_precision, check_converged
from .orthogonal import rotate
from .parameters import compute_dtype
from .solve import Equation, solve_residual


class ResidualLayer(InvertibleModule):
    """``y = U (x + g(x))``.

    Everything is computed in the widest dtype of features and parameters, float32 or higher, without autocast and TF32,
    and rounded once to the dtype of x. With ``precision='autocast'`` the branch of the forward pass follows autocast
    and TF32; weights, certificates, the sum ``x + g(x)`` and the inverse do not.

    Attributes:
        channels: C.
        groups: tokens per pixel: with G > 1 each channel group is a token of its own.
        memory: number of steps that the acceleration of the inverse combines.
        precision: of the branch in the forward pass, ``'float32'`` or ``'autocast'``.
    """

    channels: int
    groups: int = 1
    memory: int = 5
    begins_at_mean = True
    precision: str = 'float32'

    @abstractmethod
    def weights(self) -> NamedTuple:
        """All that the branch derives from the parameters, in float32 or higher."""

    @abstractmethod
    def branch(self, x: Tensor, weights: Any) -> Tensor:
        """g(x), shape (B, C, H, W); x and the weights, which come from :meth:`for_size`, have the same dtype."""

    @abstractmethod
    def branch_bound(self, weights: Any, n: int | None) -> float | None:
        """Upper bound of Lip(g) for exactly these weights, rounded up; None if there is none.

        Args:
            weights: from :meth:`weights`, in their own dtype.
            n: number of pixels; None means a bound for every number.
        """

    def for_size(self, weights: Any, size: tuple[int, int]) -> Any:
        """The weights that the branch needs for maps of size (H, W); a solve calls this once."""
        return weights

    def assess(self, x: Tensor, weights: Any, u: Roundoff) -> Assessment:
        """The branch at x, and what is certain about it around x.

        Args:
            x: float64, shape (B, C, H, W).
            weights: from :meth:`for_size`, the numbers of the forward pass in float64.
            u: the rounding errors of the forward pass.
        """
        return Assessment(self.branch(x, weights), lambda reach: torch.full_like(reach, torch.inf), None)

    def rotation(self, weights: Any) -> Tensor | None:
        """U, shape (C, C), or None for the identity."""
        return None

    def branch_norm(self, x: Tensor, groups: int) -> Tensor:
        """The norm in which g is a contraction, (B, C, H, W) -> (B,)."""
        return max_token_norm(x, groups)

    def token_norm(self, x: Tensor) -> Tensor:
        """:meth:`branch_norm` with the groups of this layer."""
        return self.branch_norm(x, self.groups)

    def forward(self, x: Tensor, weights: Any = None) -> Tensor:
        check_features(x, self.channels)
        weights = started_weights(self, x, weights)
        with full_precision(x.device):
            wide, sized = self._widened(x, weights)
        with branch_precision(self.precision, x.device):
            g = self.branch(wide, sized)
        with full_precision(x.device):
            return rotate(wide + g, self.rotation(sized)).to(x.dtype)

    @torch.no_grad()
    def inverse(
        self,
        y: Tensor,
        tol: float = 1e-6,
        max_iter: int = 100,
        strict: bool = True,
        weights: Any = None,
        certify: bool = True,
        error: Tensor | None = None,
    ) -> tuple[Tensor, InverseInfo]:
        check_features(y, self.channels, finite=True)
        weights = weights_of(self, weights)
        lipschitz = self._bound(weights, y.shape[2] * y.shape[3])
        with full_precision(y.device):
            wide, sized = self._widened(y, weights)
            x, solved = solve_residual(self.equation(wide, sized), lipschitz, tol=tol, max_iter=max_iter)
            if certify:
                error = torch.zeros(len(y), dtype=torch.float64, device=y.device) if error is None else error
                info = self.certified(x, y, error, weights, sized, lipschitz, tol, solved)
            else:
                info = uncertified(solved, self.groups)
            info = info._replace(precision=assumed_precision(self, x.dtype))
        if strict:
            check_converged(x, info, lipschitz, tol, max_iter)
        return x, info

    @torch.no_grad()
    def recover_input(
        self, y: Tensor, tol: float, max_iter: int, weights: Any = None, mean: Tensor | None = None
    ) -> Tensor:
        weights = weights_of(self, weights)
        lipschitz = self._bound(weights, y.shape[2] * y.shape[3])
        with full_precision(y.device):
            wide, sized = self._widened(y, weights)
            x, solved = solve_residual(self.equation(wide, sized), lipschitz, tol=tol, max_iter=max_iter, mean=mean)
        check_converged(x, uncertified(solved, self.groups), lipschitz, tol, max_iter)
        return x

    def equation(self, y: Tensor, weights: Any) -> Equation:
        """The equation that the inverse of y solves.

        Args:
            y: in the dtype of the computation.
            weights: from :meth:`for_size`, in the same dtype.
        """
        target = rotate(y, self.rotation(weights), transpose=True)
        return Equation(lambda x, index: self.branch(x, weights), target, self.token_norm, self.memory)

    def certified(
        self,
        x: Tensor,
        y: Tensor,
        error: Tensor,
        weights: Any,
        sized: Any,
        lipschitz: float | None,
        tol: float,
        solved: FixedPointResult,
    ) -> InverseInfo:
        """The report of ``x = inverse(y)`` for a y with an error of at most ``error``.

        ``weights`` and ``sized`` are those that both passes used.
        """
        exact, u = cast_all(sized, torch.float64), self.roundoff(x.dtype)
        seen = self.assess(x.double(), exact, u)
        z = x.double() + seen.branch
        size = torch.maximum(self.error_norm(x), self.error_norm(y))
        stored = self.error_norm(storage_error(y, x.dtype))
        rotation = self.rotation(exact)
        if rotation is None:
            residual = self.branch_norm(y.double() - z, self.groups)
            sums = u.sums * self.branch_norm(z, self.groups) + stored
        else:
            residual, sums = unrotated(y.double(), z, rotation, u.sums, self.groups)
            sums = sums + stored
        return certified(residual, sums, error, size, seen, lipschitz, self.groups, tol, solved)

    def forward_and_log_abs_det(
        self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1, weights: Any = None
    ) -> tuple[Tensor, Tensor]:
        check_features(x, self.channels)
        weights = started_weights(self, x, weights)
        wide = x.to(compute_dtype(self, x))
        with full_precision(x.device):
            g, log_det = branch_and_log_abs_det(
                self.branch_of(weights), wide, n_terms, n_samples, lambda: self._bound(weights, None)
            )
            # U is orthogonal: its log-determinant is 0
            return rotate(wide + g, self.rotation(weights)).to(x.dtype), log_det

    @torch.no_grad()
    def lipschitz_bound(self, n: int | None = None) -> float | None:
        return self._bound(weights_of(self), n)

    @torch.no_grad()
    def log_abs_det_error_bound(self, x: Tensor, n_terms: int | str | Roulette = 10) -> Tensor | None:
        check_features(x, self.channels)
        exact = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        if n_terms == 'exact':
            return exact
        weights = weights_of(self)
        lipschitz = self._bound(weights, x.shape[2] * x.shape[3])
        if lipschitz is None or lipschitz >= 1:  # the series may diverge
            return None
        if not isinstance(n_terms, int):
            return exact
        with full_precision(x.device):
            wide, sized = self._widened(x, weights)
            wide, sized = wide.double(), cast_all(sized, torch.float64)
            at_x = self.assess(wide, sized, EXACT).lipschitz(exact).nan_to_num(torch.inf).clamp(max=lipschitz)
            return self.series_error(wide, sized, at_x, n_terms)

    def series_error(self, x: Tensor, weights: Any, lipschitz: Tensor, n_terms: int) -> Tensor:
        """Bound of the error of the series of the log-determinant after n terms, shape (B,).

        Args:
            x: float64.
            weights: as in :meth:`assess`.
            lipschitz: bound of Lip(g) at x, (B,).
        """
        return truncation_bound(self.rank * x.shape[2] * x.shape[3], lipschitz, n_terms)

    @property
    def rank(self) -> int:
        """Bound of the rank of the branch's output at a pixel."""
        return self.channels

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        """``1 + L`` and ``1 / (1 - L)``, times ``sqrt(groups)``, because a pixel consists of ``groups`` tokens."""
        lipschitz = self.lipschitz_bound()
        forward = float('inf') if lipschitz is None else 1 + lipschitz
        # L may be rounded up to 1 if the contraction is very close to it; then nothing is certified
        backward = float('inf') if lipschitz is None or lipschitz >= 1 else 1 / (1 - lipschitz)
        return self.groups**0.5 * forward, self.groups**0.5 * backward

    def local_lipschitz(self, x: Tensor) -> Tensor:
        """Measured lower bound, at x, of the constant that :meth:`lipschitz_bound` bounds from above, shape (B,)."""
        check_features(x, self.channels)
        # outside inference mode, because the branch is differentiated
        with torch.inference_mode(False), full_precision(x.device):
            x, weights = self._widened(differentiable_copies(x), self.weights())
            return local_lipschitz(lambda x: self.branch(x, weights), x, self.as_tokens)

    def as_tokens(self, x: Tensor) -> Tensor:
        """The tokens of features, (B, C, H, W) -> (B, T, D)."""
        return x.unflatten(1, (self.groups, -1)).flatten(3).mT.flatten(1, 2)

    def branch_of(self, weights: Any) -> Callable[[Tensor], Tensor]:
        """g as a function of x. Gradients reach the parameters if gradients are enabled when this is called."""
        learns = torch.is_grad_enabled()

        def branch(x: Tensor) -> Tensor:
            with torch.set_grad_enabled(learns):
                sized = self._sized(differentiable_copies(weights), x)
            return self.branch(x, sized)

        return branch

    def roundoff(self, dtype: torch.dtype) -> Roundoff:
        """The rounding errors of a forward pass in the dtype, with autocast in the worst case."""
        return Roundoff.of(dtype, autocast=self.precision == 'autocast')

    def _widened(self, x: Tensor, weights: Any) -> tuple[Tensor, Any]:
        """x, and the weights for maps of its size, both in the dtype of the computation."""
        held = held_weights(self)
        x = x.to(compute_dtype(self, x) if held is None else torch.promote_types(x.dtype, held.dtype))
        return x, self._sized(weights, x)

    def _sized(self, weights: Any, x: Tensor) -> Any:
        """The weights for maps of the size and dtype of x."""
        return self.for_size(cast_weights(self, weights, x.dtype), (x.shape[2], x.shape[3]))

    @torch.no_grad()
    def _bound(self, weights: Any, n: int | None) -> float | None:
        held = held_weights(self)
        if held is None or held.weights is not weights:
            return self._checked(self.branch_bound(weights, n))
        if n not in held.bounds:
            held.bounds[n] = self._checked(self.branch_bound(weights, n))
        return held.bounds[n]

    def _checked(self, bound: float | None) -> float | None:
        """The bound itself.

        Raises:
            ValueError: the bound is NaN because a parameter is not finite.
        """
        if bound is not None and math.isnan(bound):
            check_finite_weights(self)
        return bound

"""The residual layer: everything that the blocks ``y = U (x + g(x))`` share.

g is the branch, with a certified ``Lip(g) <= L < 1`` in a norm of tokens, and U an orthogonal 1x1 convolution or the
identity. So the inverse is the fixed point of ``x <- U^T y - g(x)``, and with the residual ``r`` of what the iteration
returned

    |x_hat - x| <= (|r| + rounding) / (1 - L)

A subclass says what its weights are, what the branch is, how large its Lipschitz constant is, and how it rounds.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ops import (
    Roulette,
    branch_and_log_abs_det,
    cast_all,
    differentiable_copies,
    full_precision,
    local_lipschitz,
    max_token_norm,
    solve_fixed_point,
    truncation_bound,
)
from .constant_weights import held_weights, started_weights, weights_of
from .contract import InverseInfo, InvertibleModule, check_converged, check_features
from .orthogonal import rotate
from .parameters import compute_dtype


class Roundings(NamedTuple):
    """Rounding errors of an evaluation of ``x + g(x)``, in eps of the dtype and of the largest term.

    Attributes:
        floor: what a residual may be made of: the iteration does not ask for less.
        bound: what the error bound counts, with the sums inside of the branch.
    """

    floor: float = 4.0
    bound: float = 4.0


class ResidualLayer(InvertibleModule):
    """``y = U (x + g(x))``.

    Everything is computed in the widest dtype of features and parameters, float32 or higher, without autocast and TF32,
    and rounded once to the dtype of x.

    Attributes:
        channels: C.
        groups: tokens of a pixel: with G > 1 each channel group is one of its own.
        memory: steps that the acceleration of the inverse combines.
    """

    channels: int
    groups: int = 1
    memory: int = 5

    @abstractmethod
    def weights(self) -> NamedTuple:
        """All that the branch derives from the parameters, in float32 or higher."""

    @abstractmethod
    def branch(self, x: Tensor, weights: Any) -> Tensor:
        """g(x), shape (B, C, H, W); x and the weights of :meth:`for_size` have one dtype."""

    @abstractmethod
    def branch_bound(self, weights: Any, n: int | None) -> float | None:
        """Upper bound of Lip(g) with these very weights, rounded up; None without one.

        Args:
            weights: of :meth:`weights`, in their own dtype.
            n: number of pixels; None: for all of them.
        """

    def for_size(self, weights: Any, size: tuple[int, int]) -> Any:
        """What the branch needs on maps of (H, W); a solve asks for it once."""
        return weights

    def roundings(self, weights: Any, size: tuple[int, int]) -> Roundings:
        """How an evaluation rounds, with what :meth:`for_size` returned."""
        return Roundings()

    def rotation(self, weights: Any) -> Tensor | None:
        """U, shape (C, C), or None for the identity."""
        return None

    def branch_norm(self, x: Tensor, groups: int) -> Tensor:
        """The norm in which g is a contraction, (B, C, H, W) -> (B,)."""
        return max_token_norm(x, groups)

    def forward(self, x: Tensor, weights: Any = None) -> Tensor:
        check_features(x, self.channels)
        weights = started_weights(self, x, weights)
        with full_precision(x.device):
            wide, weights = self._widened(x, weights)
            y = wide + self.branch(wide, weights)
            return rotate(y, self.rotation(weights)).to(x.dtype)

    @torch.no_grad()
    def inverse(
        self, y: Tensor, tol: float = 1e-6, max_iter: int = 100, strict: bool = True, weights: Any = None
    ) -> tuple[Tensor, InverseInfo]:
        check_features(y, self.channels, finite=True)
        weights = weights_of(self, weights)
        lipschitz = self._bound(weights, y.shape[2] * y.shape[3])
        with full_precision(y.device):
            wide, weights = self._widened(y, weights)
            wide = rotate(wide, self.rotation(weights), transpose=True)
            x, info = invert_residual(
                lambda x, index: self.branch(x, weights),
                wide,
                lipschitz,
                groups=self.groups,
                eps=torch.finfo(y.dtype).eps,
                tol=tol,
                max_iter=max_iter,
                memory=self.memory,
                norm=self.branch_norm,
                roundings=self.roundings(weights, (y.shape[2], y.shape[3])),
            )
        if strict:
            check_converged(x, info, lipschitz, tol, max_iter)
        return x, info

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
            # U is orthogonal: its logarithm is 0
            return rotate(wide + g, self.rotation(weights)).to(x.dtype), log_det

    @torch.no_grad()
    def lipschitz_bound(self, n: int | None = None) -> float | None:
        return self._bound(weights_of(self), n)

    def log_abs_det_error_bound(self, x: Tensor, n_terms: int | str | Roulette = 10) -> float | None:
        if n_terms == 'exact':
            return 0.0
        lipschitz = self.lipschitz_bound()
        if lipschitz is None or lipschitz >= 1:  # the series may diverge
            return None
        return truncation_bound(x[0].numel(), lipschitz, n_terms) if isinstance(n_terms, int) else 0.0

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        """``1 + L`` and ``1 / (1 - L)``, times ``sqrt(groups)``: a pixel has so many tokens."""
        lipschitz = self.lipschitz_bound()
        forward = float('inf') if lipschitz is None else 1 + lipschitz
        # a contraction within a rounding error of 1 certifies nothing
        backward = float('inf') if lipschitz is None or lipschitz >= 1 else 1 / (1 - lipschitz)
        return self.groups**0.5 * forward, self.groups**0.5 * backward

    def local_lipschitz(self, x: Tensor) -> Tensor:
        """Measured lower bound, at x, of the constant that :meth:`lipschitz_bound` bounds from above, shape (B,)."""
        check_features(x, self.channels)
        # not of inference mode: it is differentiated
        with torch.inference_mode(False), full_precision(x.device):
            x, weights = self._widened(differentiable_copies(x), self.weights())
            return local_lipschitz(lambda x: self.branch(x, weights), x, self.as_tokens)

    def as_tokens(self, x: Tensor) -> Tensor:
        """The tokens of features, (B, C, H, W) -> (B, T, D)."""
        return x.unflatten(1, (self.groups, -1)).flatten(3).mT.flatten(1, 2)

    def branch_of(self, weights: Any) -> Callable[[Tensor], Tensor]:
        """g as a function of x, in whose derivatives the weights count where gradients are enabled now."""
        learns = torch.is_grad_enabled()

        def branch(x: Tensor) -> Tensor:
            with torch.set_grad_enabled(learns):
                sized = self._sized(differentiable_copies(weights), x)
            return self.branch(x, sized)

        return branch

    def _widened(self, x: Tensor, weights: Any) -> tuple[Tensor, Any]:
        """x, and what the branch needs for maps of its size, both in the dtype that is computed in."""
        x = x.to(compute_dtype(self, x))
        return x, self._sized(weights, x)

    def _sized(self, weights: Any, x: Tensor) -> Any:
        """What the branch needs for maps of the size and dtype of x."""
        return self.for_size(cast_all(weights, x.dtype), (x.shape[2], x.shape[3]))

    @torch.no_grad()
    def _bound(self, weights: Any, n: int | None) -> float | None:
        held = held_weights(self)
        if held is None or held.weights is not weights:
            return self.branch_bound(weights, n)
        if n not in held.bounds:
            held.bounds[n] = self.branch_bound(weights, n)
        return held.bounds[n]


def invert_residual(
    branch: Callable[[Tensor, Tensor], Tensor],
    y: Tensor,
    lipschitz: float | None,
    *,
    groups: int,
    eps: float,
    tol: float,
    max_iter: int,
    roundings: Roundings,
    memory: int,
    norm: Callable[[Tensor, int], Tensor] = max_token_norm,
) -> tuple[Tensor, InverseInfo]:
    """Solves ``x + branch(x) = y`` and turns the residual into the bound ``|x - x*| <= |r| / (1 - L)``.

    Args:
        branch: ``g(x, index)`` as in :func:`~mmseg_invattn.ops.solve_fixed_point`.
        y: shape (B, C, H, W), float32 or float64.
        lipschitz: bound of Lip(g) with each of ``groups`` channel groups of a pixel as a token; None without one.
        eps: relative precision in which y was stored, before it came here.
        roundings: of an evaluation.
        memory: steps that the acceleration combines.
        norm: ``norm(r, groups)``, the norm of the contraction, shape (B,).
    """
    if lipschitz is not None and lipschitz >= 1:  # a contraction within a rounding error of 1 certifies nothing
        lipschitz = None
    first = branch(y, torch.arange(len(y), device=y.device))  # the solver begins at y
    # r = y - x - g(x) is made of terms as large as y and g: a residual below a few eps of them is rounding.
    size = torch.maximum(norm(y, groups), norm(first, groups).nan_to_num(0, 0, 0))
    floor = roundings.floor * torch.finfo(y.dtype).eps * size
    margin = 1.0 if lipschitz is None else 1 - lipschitz
    x, residual, iterations, converged = solve_fixed_point(
        branch,
        y,
        lambda r: norm(r, groups),
        tol=torch.maximum(tol * size * margin - floor, floor),
        floor=8 * floor,
        contraction=lipschitz,
        max_iter=max_iter,
        memory=memory,
        first=first,
    )
    # Where g almost cancels x, y is the small difference of terms as large as x.
    rounding = roundings.bound * torch.finfo(y.dtype).eps * torch.maximum(size, norm(x, groups))
    # y was rounded as well when it was stored. A pixel has `groups` tokens: its norm is at most sqrt(groups) times
    # that of the largest.
    bound = groups**0.5 * (residual + rounding + 4 * eps * size) / margin
    return x, InverseInfo(
        iterations, groups**0.5 * residual, torch.full_like(bound, torch.nan) if lipschitz is None else bound, converged
    )

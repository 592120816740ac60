"""The contract that every invertible layer keeps."""
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops import Roulette, local_lipschitz, max_token_norm, solve_fixed_point, truncation_bound
from .derived import Derives


class InverseInfo(NamedTuple):
    """What an inverse reached, for each sample; every field has shape (B,).

    Attributes:
        iterations: evaluations of the branch.
        residual: ``|y - block(x_hat)|`` in the units of the features and in the norm of the layer
            (:meth:`InvertibleModule.error_norm`, inf2 unless the layer says otherwise).
        error_bound: upper bound of ``|x_hat - x|`` in the same units and norm, rounding included; NaN where the form
            has no certificate.
        converged: the error bound met the tolerance or the precision of the dtype.
    """
    iterations: Tensor
    residual: Tensor
    error_bound: Tensor
    converged: Tensor


class NotConvergedError(RuntimeError):
    """An inverse did not meet its tolerance. ``.x`` and ``.info`` hold what it reached."""

    def __init__(self, message: str, x: Tensor, info: InverseInfo):
        super().__init__(message)
        self.x, self.info = x, info


class InvertibleModule(Derives, ABC):
    """A map of feature maps (B, C, H, W) with an inverse.

    ``forward`` and ``inverse`` use the same weights in train and eval mode: no batch statistics, no dropout.
    ``layer.inverse(layer(x))[0]`` equals x within ``info.error_bound``.

    A layer with ``extra_outputs`` returns a tuple (trunk, extra outputs...) and its inverse takes that tuple; the norm
    of such a y is the largest of its members'.
    """
    extra_outputs: int = 0

    @abstractmethod
    def inverse(self, y: Tensor, tol: float = 1e-6, max_iter: int = 100,
                strict: bool = True) -> tuple[Tensor, InverseInfo]:
        """Recovers x from ``y = layer(x)``.

        Args:
            y: shape (B, C, H, W). Half precision is computed, and returned, in float32.
            tol: largest error, relative to the largest token norm of the sample.
            max_iter: largest number of evaluations of the branch.
            strict: raise where a sample does not converge; otherwise ``info.converged`` says which did.

        Raises:
            NotConvergedError: with ``strict``, when a sample does not meet ``tol`` within ``max_iter``.
            ValueError: y has the wrong shape, is empty or holds a value that is not finite.
        """

    def recover_input(self, y: Tensor | tuple[Tensor, ...], tol: float, max_iter: int) -> Tensor:
        """x alone, without a report, as a backward pass wants it; otherwise as :meth:`inverse`."""
        return self.inverse(y, tol, max_iter)[0]

    @abstractmethod
    def lipschitz_bound(self) -> float | None:
        """Certified upper bound of the residual branch's Lipschitz constant in the norm inf2; None without one.

        Of a composition: the largest of its layers' branches, each of which inverts at that rate.
        """

    @abstractmethod
    def log_abs_det(self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1) -> Tensor:
        """``log|det(dy/dx)|`` of each sample, in nats, with a gradient whose memory does not depend on ``n_terms``.

        Layers whose determinant has a closed form ignore the two numbers. Residual layers estimate it by
        :func:`~mmseg_invattn.ops.residual_log_abs_det`. With gradients enabled attention takes a path that is twice
        differentiable and holds its N x M map; under ``torch.no_grad()`` the fused kernel serves.

        Args:
            x: shape (B, C, H, W).
            n_terms: terms of the power series (off by at most :meth:`log_abs_det_error_bound` in expectation),
                ``'roulette'`` or :class:`~mmseg_invattn.ops.Roulette` (no bias), ``'exact'`` (small inputs).
            n_samples: random probes to average over.

        Returns:
            Tensor of shape (B,), float32 or higher.

        Raises:
            ValueError: an impossible ``n_terms`` or ``n_samples``, or the exact form of a large input.
        """

    def log_abs_det_error_bound(self, x: Tensor, n_terms: int | str | Roulette = 10) -> float | None:
        """Bound of ``|E[log_abs_det] - log|det||`` for a sample of the shape of x, in nats; None without one."""
        if n_terms == 'exact':
            return 0.0
        lipschitz = self.lipschitz_bound()
        if lipschitz is None or lipschitz >= 1:  # the series may diverge
            return None
        return truncation_bound(x[0].numel(), lipschitz, n_terms) if isinstance(n_terms, int) else 0.0

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        """Upper bounds (of Lip(f), of Lip(f^-1)) in the norm inf2; ``inf`` where none is known.

        y known up to e gives x up to ``Lip(f^-1) e``: ``e / (1 - L)`` for ``y = x + g(x)``.
        """
        lipschitz = self.lipschitz_bound()
        if lipschitz is None or lipschitz >= 1:  # a contraction within a rounding error of 1
            return float('inf') if lipschitz is None else 1 + lipschitz, float('inf')
        return 1 + lipschitz, 1 / (1 - lipschitz)

    def inverse_error(self, x: Tensor, error: Tensor, within: Tensor | float = 0.0) -> Tensor:
        """How far the exact inverse moves when y does by ``error``: bound of ``|f^-1(y') - f^-1(y)|``, shape (B,).

        ``Lip(f^-1) error``; layers whose inverse is not uniformly Lipschitz bound it around x instead. NaN where
        nothing is known.

        Args:
            x: the inverse of y', up to ``within``.
            error: bound of ``|y' - y|_inf2``, shape (B,).
            within: bound of ``|x - f^-1(y')|`` in the norm of the layer, shape (B,).
        """
        gain = self.bi_lipschitz_bound()[1]
        # an error of exactly 0 stays 0 even where the gain is not known
        return torch.where(error == 0, error, gain * error if math.isfinite(gain) else torch.nan)

    def error_norm(self, x: Tensor) -> Tensor:
        """The norm of residuals and error bounds of x, (B, C, H, W) -> (B,)."""
        return max_token_norm(x)

    def pixel_error(self, x: Tensor, error: Tensor) -> Tensor:
        """Bound in the norm inf2 of an error of x that is ``error`` in :meth:`error_norm`, shape (B,)."""
        return error


def composed_error(layer: InvertibleModule, x: Tensor, info: InverseInfo, error: Tensor) -> Tensor:
    """Error of ``x = layer.inverse(y')`` where y' is known up to ``error``: the rule of every composed inverse.

    With f the layer and y what y' approximates, ``|x - f^-1(y)| <= |x - f^-1(y')| + |f^-1(y') - f^-1(y)|``: the layer's
    own bound, plus what its inverse makes of the error. For a residual layer that is ``(|r| + error) / (1 - L)``.

    Args:
        layer: f.
        x: what its inverse returned, with ``info``.
        error: bound of ``|y' - y|_inf2``, shape (B,).
    """
    return info.error_bound + layer.inverse_error(x, error, info.error_bound)


def check_features(x: Tensor, channels: int | None, finite: bool = False) -> None:
    """Refuses what is not a non-empty feature map of the expected channels (None: any), naming what it got."""
    if x.dim() != 4 or channels not in (None, x.shape[1]):
        raise ValueError(f'got a tensor of shape {tuple(x.shape)}; the layer takes (B, C, H, W) with C = '
                         f'{channels or "any"}: build it with in_channels={x.shape[1] if x.dim() == 4 else "C"} or '
                         'reshape the input')
    if x.numel() == 0:
        raise ValueError(f'got an empty feature map of shape {tuple(x.shape)}; batch, height and width must be at '
                         'least 1: check the crop size against the stride of the backbone')
    if not x.is_floating_point():
        raise ValueError(f'got a tensor of dtype {x.dtype}; the layer takes floating point features: call .float()')
    if finite and not x.isfinite().all():
        bad = (~x.isfinite()).flatten(1).sum(1)
        raise ValueError(f'the input of inverse holds values that are not finite (NaN or inf), counted by sample: '
                         f'{bad.tolist()}; only finite features have an inverse: find the layer that made them')


def check_converged(x: Tensor, info: InverseInfo, lipschitz: float | None, tol: float, max_iter: int) -> None:
    """Raises :class:`NotConvergedError`, with what was reached, unless every sample converged."""
    if not info.converged.all():
        raise NotConvergedError(
            f'the inverse of {int((~info.converged).sum())} of {len(x)} samples did not reach tol={tol} within '
            f'max_iter={max_iter} evaluations (largest residual {float(info.residual.max()):.3g}, '
            f'certified Lipschitz bound {lipschitz}): raise max_iter or tol, or pass strict=False', x, info)


def invert_residual(branch: Callable[[Tensor, Tensor], Tensor], y: Tensor, lipschitz: float | None, *, groups: int,
                    eps: float, tol: float, max_iter: int, strict: bool, roundings: float = 4.0,
                    branch_eps: float = 0.0, memory: int = 5,
                    norm: Callable[[Tensor, int], Tensor] = max_token_norm) -> tuple[Tensor, InverseInfo]:
    """Solves ``x + branch(x) = y`` and turns the residual into the bound ``|x - x*| <= |r| / (1 - L)``.

    Args:
        branch: ``g(x, index)`` as in :func:`~mmseg_invattn.ops.solve_fixed_point`.
        y: shape (B, C, H, W), float32 or float64.
        lipschitz: bound of Lip(g) with each of ``groups`` channel groups of a pixel as a token; None without one.
        eps: relative precision in which y was stored, before it came here.
        roundings: rounding errors of an evaluation of ``x + g(x)``, in eps of the largest term.
        branch_eps: relative precision of the branch, where it sums so many terms that it is below that of the dtype.
        memory: steps that the acceleration combines.
        norm: ``norm(r, groups)``, the norm of the contraction, shape (B,).
    """
    if lipschitz is not None and lipschitz >= 1:  # a contraction within a rounding error of 1 certifies nothing
        lipschitz = None
    first = branch(y, torch.arange(len(y), device=y.device))  # the solver begins at y
    # r = y - x - g(x) is made of terms as large as y and g: a residual below a few eps of them is rounding.
    size = torch.maximum(norm(y, groups), norm(first, groups).nan_to_num(0, 0, 0))
    rounding = roundings * torch.finfo(y.dtype).eps * size
    margin = 1.0 if lipschitz is None else 1 - lipschitz
    x, residual, iterations, converged = solve_fixed_point(
        branch, y, lambda r: norm(r, groups), tol=torch.maximum(tol * size * margin - rounding, rounding),
        floor=8 * rounding, contraction=lipschitz, max_iter=max_iter, memory=memory, first=first)
    # Where g almost cancels x, y is the small difference of terms as large as x.
    branch_eps = max(branch_eps, torch.finfo(y.dtype).eps)
    rounding = roundings * branch_eps * torch.maximum(size, norm(x, groups))
    # y was rounded as well when it was stored. A pixel has `groups` tokens: its norm is at most sqrt(groups) times
    # that of the largest.
    bound = groups**0.5 * (residual + rounding + 4 * eps * size) / margin
    info = InverseInfo(iterations, groups**0.5 * residual,
                       torch.full_like(bound, torch.nan) if lipschitz is None else bound, converged)
    if strict:
        check_converged(x, info, lipschitz, tol, max_iter)
    return x, info


def branch_steepness(branch: Callable[[Tensor], Tensor], x: Tensor, groups: int = 1) -> Tensor:
    """Measured lower bound of ``|J|_inf2`` of a map at x, shape (B,), with ``groups`` tokens a pixel."""
    return local_lipschitz(branch, x, lambda t: t.unflatten(1, (groups, -1)).flatten(3).mT.flatten(1, 2))

"""The contract that every invertible layer keeps."""
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..ops import local_lipschitz, max_token_norm, solve_fixed_point


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


class InvertibleModule(nn.Module, ABC):
    """A map of feature maps (B, C, H, W) with an inverse.

    ``forward`` and ``inverse`` use the same weights in train and eval mode: no batch statistics, no dropout.
    ``layer.inverse(layer(x))[0]`` equals x within ``info.error_bound``.
    """

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

    @abstractmethod
    def lipschitz_bound(self) -> float | None:
        """Certified upper bound of the residual branch's Lipschitz constant in the norm inf2; None without one."""

    def error_norm(self, x: Tensor) -> Tensor:
        """The norm of residuals and error bounds, (B, C, H, W) -> (B,)."""
        return max_token_norm(x)

    def inverse_error(self, x: Tensor, error: Tensor) -> Tensor:
        """How far the exact inverse moves when y does by ``error``: bound of ``|f^-1(y') - f^-1(y)|``, shape (B,).

        Args:
            x: the inverse of one of the two, as computed; layers whose inverse is not uniformly Lipschitz need it.
            error: bound of ``|y' - y|_inf2``, shape (B,).
        """
        bound = self.lipschitz_bound()
        if bound is None:
            return torch.full_like(error, torch.nan)
        # A pixel has `groups` tokens, each with a contraction of its own.
        return getattr(self, 'groups', 1)**0.5 * error / (1 - bound)


def composed_error(layer: InvertibleModule, x: Tensor, info: InverseInfo, error: Tensor) -> Tensor:
    """Error of ``x = layer.inverse(y')`` where y' is known up to ``error``: the rule of every composed inverse.

    With f the layer and y what y' approximates, ``|x - f^-1(y)| <= |x - f^-1(y')| + |f^-1(y') - f^-1(y)|``: the layer's
    own bound, plus what its inverse makes of the error. For a residual layer that is ``(|r| + error) / (1 - L)``.

    Args:
        layer: f.
        x: what its inverse returned, with ``info``.
        error: bound of ``|y' - y|_inf2``, shape (B,).
    """
    return info.error_bound + layer.inverse_error(x, error.to(info.error_bound.dtype))


def check_features(x: Tensor, channels: int, finite: bool = False) -> None:
    """Refuses what is not a non-empty feature map of the expected channels, naming what it got."""
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f'got a tensor of shape {tuple(x.shape)}; the layer takes (B, C, H, W) with C = {channels}: '
                         f'build it with in_channels={x.shape[1] if x.dim() == 4 else "C"} or reshape the input')
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
                    norm: Callable[[Tensor, int], Tensor] = max_token_norm) -> tuple[Tensor, InverseInfo]:
    """Solves ``x + branch(x) = y`` and turns the residual into the bound ``|x - x*| <= |r| / (1 - L)``.

    Args:
        branch: ``g(x, index)`` as in :func:`~mmseg_invattn.ops.solve_fixed_point`.
        y: shape (B, C, H, W), float32 or float64.
        lipschitz: bound of Lip(g) with each of ``groups`` channel groups of a pixel as a token; None without one.
        eps: relative precision in which y was stored, before it came here.
        roundings: rounding errors of an evaluation of ``x + g(x)``, in eps of the largest term.
        norm: ``norm(r, groups)``, the norm of the contraction, shape (B,).
    """
    first = branch(y, torch.arange(len(y), device=y.device))  # the solver begins at y
    # r = y - x - g(x) is made of terms as large as y and g: a residual below a few eps of them is rounding.
    size = torch.maximum(norm(y, groups), norm(first, groups).nan_to_num(0, 0, 0))
    rounding = roundings * torch.finfo(y.dtype).eps * size
    margin = 1.0 if lipschitz is None else 1 - lipschitz
    started = []

    def continued(x: Tensor, index: Tensor) -> Tensor:
        if started:
            return branch(x, index)
        started.append(True)
        return first

    x, residual, iterations, converged = solve_fixed_point(
        continued, y, lambda r: norm(r, groups), tol=torch.maximum(tol * size * margin - rounding, rounding),
        floor=8 * rounding, contraction=lipschitz, max_iter=max_iter)
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

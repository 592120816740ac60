"""The contract that every invertible layer keeps."""
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..ops import Roulette, max_token_norm, solve_fixed_point, truncation_bound


class InverseInfo(NamedTuple):
    """What an inverse reached, for each sample; every field has shape (B,).

    Attributes:
        iterations: evaluations of the branch.
        residual: ``|y - block(x_hat)|_inf2``, in the units of the features.
        error_bound: upper bound of ``|x_hat - x|_inf2`` in the units of the features, rounding included; NaN where
            the form has no certificate.
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

    @abstractmethod
    def lipschitz_bound(self) -> float | None:
        """Certified upper bound of the residual branch's Lipschitz constant in the norm inf2; None without one."""

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
        if not isinstance(n_terms, int):
            return 0.0
        lipschitz = self.lipschitz_bound()
        return None if lipschitz is None or lipschitz >= 1 else truncation_bound(x[0].numel(), lipschitz, n_terms)

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        """Upper bounds (of Lip(f), of Lip(f^-1)) in the norm inf2; ``inf`` where none is known.

        y known up to e gives x up to ``Lip(f^-1) e``: ``e / (1 - L)`` for ``y = x + g(x)``.
        """
        lipschitz = self.lipschitz_bound()
        if lipschitz is None or lipschitz >= 1:  # a contraction within a rounding error of 1
            return float('inf') if lipschitz is None else 1 + lipschitz, float('inf')
        return 1 + lipschitz, 1 / (1 - lipschitz)


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


def invert_residual(branch: Callable[[Tensor, Tensor], Tensor], y: Tensor, lipschitz: float | None, *, groups: int,
                    eps: float, tol: float, max_iter: int, strict: bool,
                    branch_eps: float = 0.0) -> tuple[Tensor, InverseInfo]:
    """Solves ``x + branch(x) = y`` and turns the residual into the bound ``|x - x*| <= |r| / (1 - L)``.

    Args:
        branch: ``g(x, index)`` as in :func:`~mmseg_invattn.ops.solve_fixed_point`.
        y: shape (B, C, H, W), float32 or float64.
        lipschitz: bound of Lip(g) with each of ``groups`` channel groups of a pixel as a token; None without one.
        eps: relative precision in which y was stored, before it came here.
        branch_eps: relative precision of the branch, where it sums so many terms that it is below that of the dtype.
    """
    size = max_token_norm(y, groups)
    if lipschitz is not None and lipschitz >= 1:  # a contraction within a rounding error of 1 certifies nothing
        lipschitz = None
    # r = y - x - g(x) is made of terms about as large as y: a residual below a few eps |y| is rounding.
    rounding = 4 * torch.finfo(y.dtype).eps * size
    margin = 1.0 if lipschitz is None else 1 - lipschitz
    x, residual, iterations, converged = solve_fixed_point(
        branch, y, lambda r: max_token_norm(r, groups), tol=torch.maximum(tol * size * margin - rounding, rounding),
        floor=8 * rounding, contraction=lipschitz, max_iter=max_iter)
    # Where g almost cancels x, y is the small difference of terms as large as x.
    branch_eps = max(branch_eps, torch.finfo(y.dtype).eps)
    rounding = 4 * branch_eps * torch.maximum(size, max_token_norm(x, groups))
    # y was rounded as well when it was stored. A pixel has `groups` tokens: its norm is at most sqrt(groups) times
    # that of the largest.
    bound = groups**0.5 * (residual + rounding + 4 * eps * size) / margin
    info = InverseInfo(iterations, groups**0.5 * residual,
                       torch.full_like(bound, torch.nan) if lipschitz is None else bound, converged)
    if strict and not converged.all():
        raise NotConvergedError(
            f'the inverse of {int((~converged).sum())} of {len(y)} samples did not reach tol={tol} within '
            f'max_iter={max_iter} evaluations (largest residual {float(residual.max()):.3g}, '
            f'certified Lipschitz bound {lipschitz}): raise max_iter or tol, or pass strict=False', x, info)
    return x, info

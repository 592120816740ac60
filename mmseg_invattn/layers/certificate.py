"""From a residual to an error bound: what an inverse of ``y = x + g(x)`` is worth on the computer.

Three things are kept apart. The *map* is ``x + g(x)`` in exact arithmetic, with the very numbers that the layer's
weights are; the certificate L bounds Lip(g) for them. The *forward pass* computed the map up to a rounding error:
``y = x + g(x) + rho``. The *inverse* returned some x_hat. With its residual ``r = y - x_hat - g(x_hat)``, evaluated
once in float64,

    (x_hat - x) + (g(x_hat) - g(x)) = rho - r        so        |x_hat - x| <= (|r| + |rho|) / (1 - L)

whatever the solver did. Two refinements make it a number to read:

- L of all features is replaced by a bound of Lip(g) around x_hat. It has to hold on the way from x_hat to x, which is
  no longer than ``reach = (|r| + |rho|) / (1 - L)`` by the first bound.
- rho is bounded a priori from the sizes of what is added up around x_hat (:mod:`~mmseg_invattn.ops.rounding`), a layer
  stating what its branch makes of it.

A rounding error that was measured, at x_hat or elsewhere, carries nothing: on a small map it can be 0 by luck.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops import UNDERFLOW, FixedPointResult, max_token_norm, product_rounding
from .contract import InverseInfo
from .orthogonal import rotate

# A bound that is not small against the features says nothing about them, whatever the solver reached.
USEFUL = 0.5
NOTHING = 1e-22  # features of this size or below it, as those of a map of zeros, are known where the bound is below it


class Assessment(NamedTuple):
    """What a layer knows of its branch at a point; numbers are float64 and of one sample each, shape (B,).

    Attributes:
        branch: g there, in float64.
        lipschitz: reach -> upper bound of Lip(g) at all features within the reach.
        rounding: (reach, Lip(g) there) -> upper bound of what rounding changed in g, within the reach; None where the
            layer does not say, so that there is no error bound.
    """

    branch: Tensor
    lipschitz: Callable[[Tensor], Tensor]
    rounding: Callable[[Tensor, Tensor], Tensor] | None


def certified(
    residual: Tensor,
    sums: Tensor,
    error: Tensor,
    size: Tensor,
    seen: Assessment,
    lipschitz: float | None,
    groups: int,
    tol: float,
    solved: FixedPointResult,
) -> InverseInfo:
    """The report of an inverse.

    Args:
        residual: ``|y - x_hat - g(x_hat)|``, evaluated in float64, shape (B,).
        sums: bound of the rounding outside of the branch: of the residual sum, a rotation, and storage.
        error: by how much y may differ from what the forward pass gave, (B,); NaN where nobody knows.
        size: of the features, ``max(|x|, |y|)``.
        seen: the branch at x_hat.
        lipschitz: bound of Lip(g) for all features; None without one.
        groups: tokens of a pixel: its norm is at most sqrt(groups) times that of the largest.
        tol: that was asked for.
        solved: what the solver says.
    """
    pixel = groups**0.5
    if lipschitz is None or seen.rounding is None:
        return uncertified(solved._replace(residual=residual), groups)
    if not lipschitz < 1:  # a contraction within a rounding error of 1 certifies nothing
        nothing = torch.zeros_like(solved.converged)
        return uncertified(solved._replace(residual=residual, converged=nothing), groups)
    everywhere, known = torch.full_like(residual, lipschitz), error.nan_to_num()
    rho = sums + seen.rounding(torch.zeros_like(residual), everywhere)
    reach = (residual + rho + known) / (1 - lipschitz)
    rho = sums + seen.rounding(reach, everywhere)
    reach = (residual + rho + known) / (1 - lipschitz)
    local = seen.lipschitz(reach).nan_to_num(torch.inf).minimum(everywhere)
    rho = sums + seen.rounding(reach, local)
    size = size.clamp(min=NOTHING)
    own, bound = (pixel * (residual + rho + other) / (1 - local) * (1 + 1e-12) for other in (0, error))
    bound = torch.where(bound.isfinite(), bound, torch.nan)
    exhausted = solved.converged | (residual <= 4 * rho)  # rounding alone explains what is left
    converged = (own <= tol * size) | (exhausted & (own <= USEFUL * size))
    return InverseInfo(solved.iterations, pixel * residual, bound, converged, pixel * rho, local)


def uncertified(solved: FixedPointResult, groups: int) -> InverseInfo:
    """The report without a certificate, or without asking for one."""
    nan = torch.full_like(solved.residual, torch.nan)
    return InverseInfo(solved.iterations, groups**0.5 * solved.residual, nan, solved.converged, nan, nan)


def unrotated(y: Tensor, z: Tensor, matrix: Tensor, u: float, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Of ``y = U z'``: bounds of ``|U^-1 y - z|`` and of the rounding of ``U z``, in the norm of the groups.

    U is orthogonal up to a defect ``|U^T U - I|``, which is measured: ``|U^-1 - U^T| <= defect / (1 - defect)``.

    Args:
        y, z: float64, shape (B, C, H, W).
        matrix: the numbers of U that the forward pass used, in float64.
        u: unit roundoff of the forward pass.
    """
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    defect = torch.linalg.matrix_norm(matrix.mT @ matrix - eye)
    off = torch.where(defect < 1, defect / (1 - defect), torch.nan)
    r = y - rotate(z, matrix)
    residual = max_token_norm(rotate(r, matrix, transpose=True), groups) + off * max_token_norm(r)
    size = max_token_norm(z)
    sums = u * max_token_norm(z, groups) + (1 + off) * (
        (product_rounding(matrix, u) + u) * size + UNDERFLOW * len(matrix)
    )
    return residual, sums

"""From a residual to an error bound for a computed inverse of ``y = x + g(x)``.

Three things are distinguished. The *map* is ``x + g(x)`` in exact arithmetic, with exactly the numbers that are the
weights of the layer; the certificate L bounds Lip(g) for these numbers. The *forward pass* computed the map up to a
rounding error: ``y = x + g(x) + rho``. The *inverse* returned some x_hat. With its residual
``r = y - x_hat - g(x_hat)``, evaluated once in float64,

    (x_hat - x) + (g(x_hat) - g(x)) = rho - r        so        |x_hat - x| <= (|r| + |rho|) / (1 - L)

holds for whatever the solver returned. Two refinements make the bound tight enough to be useful:

- L, which holds for all features, is replaced by a bound of Lip(g) around x_hat. This has to hold between x_hat and x,
  whose distance is at most ``reach = (|r| + |rho|) / (1 - L)`` by the first bound.
- rho is bounded a priori from the sizes of the numbers that are added around x_hat
  (:mod:`~mmseg_invattn.ops.rounding`); every layer states the bound for its branch.

A measured rounding error, at x_hat or elsewhere, cannot be used in a bound: on a small map it can be 0 by chance.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops import UNDERFLOW, FixedPointResult, max_token_norm, product_rounding
from .contract import InverseInfo
from .orthogonal import rotate

# Largest error bound, relative to the features, with which an inverse counts as converged.
USEFUL = 0.5
# Smallest size that features are taken to have: an error bound below it is enough for smaller ones, such as zeros.
NOTHING = 1e-22


class Assessment(NamedTuple):
    """What a layer knows about its branch at a point. Bounds are float64 with one number per sample, shape (B,).

    Attributes:
        branch: g at the point, in float64, shape (B, C, H, W).
        lipschitz: reach -> upper bound of Lip(g) at all features within the reach.
        rounding: (reach, Lip(g) there) -> upper bound of the rounding error of g within the reach; None if the layer
            states none, so that there is no error bound.
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
        sums: bound of the rounding outside the branch: of the residual sum, a rotation, and storage.
        error: bound of the difference between y and the output of the forward pass, (B,); NaN if unknown.
        size: of the features, ``max(|x|, |y|)``.
        seen: the branch at x_hat.
        lipschitz: bound of Lip(g) for all features, or None.
        groups: tokens per pixel: the norm of a pixel is at most sqrt(groups) times that of its largest token.
        tol: the requested tolerance.
        solved: the result of the solver.
    """
    pixel = groups**0.5
    if lipschitz is None or seen.rounding is None:
        return uncertified(solved._replace(residual=residual), groups)
    if not lipschitz < 1:  # a contraction so close to 1 that L is rounded up to 1
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
    exhausted = solved.converged | (residual <= 4 * rho)  # rounding alone may cause this residual
    converged = (own <= tol * size) | (exhausted & (own <= USEFUL * size))
    return InverseInfo(solved.iterations, pixel * residual, bound, converged, pixel * rho, local)


def uncertified(solved: FixedPointResult, groups: int) -> InverseInfo:
    """The report if there is no certificate or none was requested."""
    nan = torch.full_like(solved.residual, torch.nan)
    return InverseInfo(solved.iterations, groups**0.5 * solved.residual, nan, solved.converged, nan, nan)


def unrotated(y: Tensor, z: Tensor, matrix: Tensor, u: float, groups: int = 1) -> tuple[Tensor, Tensor]:
    """For ``y = U z'``: bounds of ``|U^-1 y - z|`` and of the rounding of ``U z``, in the norm of the groups.

    U is orthogonal up to a defect ``|U^T U - I|``, which is measured: ``|U^-1 - U^T| <= defect / (1 - defect)``.

    Args:
        y, z: float64, shape (B, C, H, W).
        matrix: U as the forward pass used it, in float64.
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

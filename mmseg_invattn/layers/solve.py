"""How accurate the solver of a residual layer has to be, and where rounding ends what it can do."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops import FixedPointResult, solve_fixed_point


class Equation(NamedTuple):
    """``x + branch(x) = target``, and what a solution of it makes of the features.

    Attributes:
        branch: ``g(x, index)`` as in :func:`~mmseg_invattn.ops.solve_fixed_point`.
        target: shape (B, C, H, W), float32 or float64.
        norm: in which g is a contraction, (B, C, H, W) -> (B,).
        memory: steps that the acceleration combines.
        part: features -> what of them is x.
        whole: x -> the features.
    """

    branch: Callable[[Tensor, Tensor], Tensor]
    target: Tensor
    norm: Callable[[Tensor], Tensor]
    memory: int = 5
    part: Callable[[Tensor], Tensor] = lambda x: x
    whole: Callable[[Tensor], Tensor] = lambda x: x


def solve_residual(
    equation: Equation, lipschitz: float | None, *, tol: float, max_iter: int, mean: Tensor | None = None
) -> tuple[Tensor, FixedPointResult]:
    """Solves the equation to a residual that is small against the features, or that rounding explains.

    Args:
        lipschitz: bound of Lip(g) in the norm; None without one.
        mean: of the features over the pixels, (B, C, 1, 1), where it is known.

    Returns:
        The features, one plain step beyond the solver's where g is a contraction: its residual is known already.
    """
    branch, y, norm = equation.branch, equation.target, equation.norm
    # attention of ordinary sharpness writes much the same to all pixels: with the mean of x it begins nearer
    start = y if mean is None else y + (equation.part(mean) - y.mean((2, 3), keepdim=True))
    first = branch(start, torch.arange(len(y), device=y.device))
    # r = y - x - g(x) is made of terms as large as y and g: a residual below a few eps of them is rounding.
    size = torch.maximum(norm(y), norm(first).nan_to_num(0, 0, 0))
    floor = 4 * torch.finfo(y.dtype).eps * size
    contraction = lipschitz if lipschitz is not None and lipschitz < 1 else None
    margin = 1.0 if contraction is None else 1 - contraction
    solved = solve_fixed_point(
        branch,
        y,
        norm,
        tol=torch.maximum(tol * size * margin - floor, floor),
        floor=8 * floor,
        contraction=contraction,
        max_iter=max_iter,
        memory=equation.memory,
        start=start,
        first=first,
    )
    return equation.whole(solved.x if contraction is None else solved.x + solved.step), solved

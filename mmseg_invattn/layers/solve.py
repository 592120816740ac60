"""Sets the accuracy that the solver of a residual layer has to reach, and the floor that rounding sets."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops import FixedPointResult, solve_fixed_point


class Equation(NamedTuple):
    """The equation ``x + branch(x) = target``, and how x is related to the features.

    Attributes:
        branch: ``g(x, index)`` as in :func:`~mmseg_invattn.ops.solve_fixed_point`.
        target: shape (B, C, H, W), float32 or float64.
        norm: the norm in which g is a contraction, (B, C, H, W) -> (B,).
        memory: number of steps that the acceleration combines.
        part: features -> x, the part of them that is solved for.
        whole: x -> features.
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
    """Solves the equation until the residual is small compared with the features, or no larger than rounding.

    Args:
        lipschitz: bound of Lip(g) in the norm, or None.
        tol: largest error, relative to the features.
        max_iter: largest number of evaluations of the branch.
        mean: mean of the features over the pixels, (B, C, 1, 1), if it is known.

    Returns:
        The features, and the result of the solver. If g is a contraction, the features are one plain step further than
        that result; the step needs no evaluation, because the residual is known.
    """
    branch, y, norm = equation.branch, equation.target, equation.norm
    # Attention of ordinary sharpness adds nearly the same to all pixels, so with the mean of x the start is closer.
    start = y if mean is None else y + (equation.part(mean) - y.mean((2, 3), keepdim=True))
    first = branch(start, torch.arange(len(y), device=y.device))
    # r = y - x - g(x) is a sum of terms as large as y and g, so a residual below a few eps of them is rounding.
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

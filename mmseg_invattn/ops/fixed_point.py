"""The inverse of ``y = x + g(x)``: a fixed point of ``x <- y - g(x)`` with safeguarded Anderson acceleration.

With ``r = y - x - g(x)`` and ``Lip(g) <= L < 1`` in the given norm, the solution x* obeys

    |x - x*| <= |r| / (1 - L)                                                                     (a-posteriori bound)

Plain steps ``x + r`` shrink ``|r|`` by L or better. An Anderson step is kept where it shrinks |r| as much, or where
the whole iteration is still no more than a constant behind that guarantee, ``|r_k| <= SLACK L^k |r_0|``; elsewhere the
plain step from the same point is taken and the memory of that sample is cleared. So the accelerated iteration
converges, at the guaranteed rate or faster, whenever the plain one does.
"""
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

# How far the accelerated iteration may fall behind: it minimises |r| in another norm, over all pixels together, so
# its steps are uneven.
SLACK = 10.0


class FixedPointResult(NamedTuple):
    """What the solver reached, for each sample.

    Attributes:
        x: the iterate with the smallest residual, shape (B, ...).
        residual: ``|y - x - g(x)|``, shape (B,).
        iterations: evaluations of g, shape (B,), int64.
        converged: residual at most ``tol``, or at the floor that rounding sets, shape (B,), bool.
    """
    x: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor


@torch.no_grad()
def solve_fixed_point(branch: Callable[[Tensor, Tensor], Tensor],
                      y: Tensor,
                      norm: Callable[[Tensor], Tensor],
                      tol: Tensor,
                      floor: Tensor,
                      contraction: float | None,
                      max_iter: int = 100,
                      memory: int = 5,
                      patience: int = 3) -> FixedPointResult:
    """Solves ``x + g(x) = y`` for each sample of a batch; finished samples leave the batch.

    Args:
        branch: ``g(x, index)`` with x of shape (A, ...) and ``index`` (A,), the samples of the batch that are left.
        y: shape (B, ...).
        norm: maps (A, ...) to (A,).
        tol: residual at which a sample is done, shape (B,).
        floor: residual that rounding alone explains, shape (B,): a sample whose residual stays below it without
            improving for ``patience`` evaluations is done as well.
        contraction: L, a bound of Lip(g) in ``norm``; None where there is none (then any decrease is accepted).
        max_iter: largest number of evaluations of g.
        memory: earlier steps that the acceleration combines; 0 is the plain iteration.
        patience: see ``floor``; without progress for that long above the floor a sample goes on to ``max_iter``.
    """
    batch = len(y)
    best = FixedPointResult(y.clone(), torch.full_like(tol, torch.inf), torch.zeros_like(tol, dtype=torch.long),
                            torch.zeros_like(tol, dtype=torch.bool))
    zero, far = torch.zeros_like(best.iterations), torch.full_like(tol, torch.inf)
    s = _Samples(index=torch.arange(batch, device=y.device), target=y, trial=y, plain=zero == 0, point=y,
                 step=torch.zeros_like(y), size=far, start=far, accepted=zero, stalled=zero)
    history: list[tuple[Tensor, Tensor, Tensor]] = []  # earlier accepted (x, r, valid), newest last

    for _ in range(max_iter):
        trial_step = s.target - s.trial - branch(s.trial, s.index)
        trial_size = norm(trial_step)
        best.iterations[s.index] += 1
        better = trial_size < best.residual[s.index]
        best.x[s.index[better]] = s.trial[better]
        best.residual[s.index[better]] = trial_size[better]
        s.stalled = torch.where(better, 0, s.stalled + 1)

        s.start = torch.where(s.accepted == 0, trial_size, s.start)
        allowed = s.size if contraction is None else torch.maximum(
            contraction * s.size, SLACK * s.start * contraction**s.accepted)
        keep = (s.plain | (trial_size <= allowed)) & trial_size.isfinite()
        history.append((s.point, s.step, s.accepted > 0))
        history = [(x, r, valid & keep) for x, r, valid in history[-memory:]] if memory else []
        s.accepted = s.accepted + keep
        s.point, s.step = _where(keep, s.trial, s.point), _where(keep, trial_step, s.step)
        s.size = torch.where(keep, trial_size, s.size)

        residual = best.residual[s.index]
        done = (residual <= tol[s.index]) | ((residual <= floor[s.index]) & (s.stalled >= patience))
        best.converged[s.index] = done
        left = ~done & (keep | ~s.plain)  # after a plain step that is not finite there is nothing left to try
        if not left.any():
            break
        if not left.all():
            s, keep = s.select(left), keep[left]
            history = [(x[left], r[left], valid[left]) for x, r, valid in history]
        s.trial = s.point + s.step
        if memory:
            s.trial = _where(keep, s.trial - _anderson_correction(s.point, s.step, history), s.trial)
        s.plain = ~keep if memory else torch.ones_like(keep)
    return best


@dataclass
class _Samples:
    """The samples that are not done; every field has them first."""
    index: Tensor  # their places in the batch
    target: Tensor  # y
    trial: Tensor  # the point to evaluate next
    plain: Tensor  # whether a plain step led there
    point: Tensor  # last accepted x, its r and |r|
    step: Tensor
    size: Tensor
    start: Tensor  # the first |r|
    accepted: Tensor  # accepted points
    stalled: Tensor  # evaluations since |r| was smallest

    def select(self, mask: Tensor) -> '_Samples':
        return _Samples(*(getattr(self, f.name)[mask] for f in fields(self)))


def _where(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``torch.where`` with one flag a sample."""
    return torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b)


def _anderson_correction(point: Tensor, step: Tensor, history: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """``(dX + dR) gamma`` with ``gamma = argmin |r - dR gamma|_2``, to subtract from ``x + r``: Anderson, type II.

    Columns that are not valid for a sample are zero, so their gamma is zero; a small ridge keeps the normal equations
    solvable where columns are parallel.
    """
    shape = (len(step), 1, -1)
    valid = torch.stack([v for _, _, v in history], 1)[..., None]
    d_step = torch.cat([(step - r).reshape(shape) for _, r, _ in history], 1)
    d_point = torch.cat([(point - x).reshape(shape) for x, _, _ in history], 1)
    d_step, d_point = torch.where(valid, d_step, 0), torch.where(valid, d_point, 0)
    scale = d_step.norm(dim=2, keepdim=True)
    scale = torch.where(scale > 0, scale, 1)
    unit = d_step / scale
    gram = (unit @ unit.mT).double()
    ridge = 1e-10 if step.dtype == torch.float64 else 1e-6
    gram = gram + ridge * torch.eye(len(history), dtype=gram.dtype, device=gram.device)
    gamma = torch.linalg.solve(gram, (unit @ step.reshape(shape).mT).double()).to(step.dtype) / scale
    return ((d_point + d_step) * gamma).sum(1).reshape(step.shape)

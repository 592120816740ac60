"""The inverse of ``y = x + g(x)``: a fixed point of ``x <- y - g(x)`` with safeguarded Anderson acceleration.

With ``r = y - x - g(x)`` and ``Lip(g) <= L < 1`` in the given norm, the solution x* obeys

    |x - x*| <= |r| / (1 - L)                                                                     (a-posteriori bound)

A plain step ``x + r`` multiplies ``|r|`` by at most L. An Anderson step is kept if it shrinks |r| as much, or if the
whole iteration is still within a constant factor of that guarantee, ``|r_k| <= SLACK L^k |r_0|``. Otherwise the plain
step from the same point is taken and the memory of that sample is cleared. So the accelerated iteration converges, at
the guaranteed rate or faster, whenever the plain one does.

If plain steps multiply |r| by PLAIN_RATE or less, only plain steps are taken: an Anderson step would then cost more
time than the evaluations that it saves.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

# Factor by which the accelerated iteration may fall behind the guarantee. It minimises |r| in another norm, over all
# pixels together, so |r| does not shrink evenly.
SLACK = 10.0
# Rate at which plain steps are fast enough.
PLAIN_RATE = 0.2
# Evaluations between two checks of which samples are done. On an accelerator a check waits for its queue; a sample
# that is done in between is frozen, so the result is the same.
LOOK_EVERY = 4


class FixedPointResult(NamedTuple):
    """The result of the solver, for each sample.

    Attributes:
        x: the iterate with the smallest residual, shape (B, ...).
        residual: ``|y - x - g(x)|``, shape (B,).
        iterations: evaluations of g, shape (B,), int64.
        converged: residual at most ``tol``, or at the floor that rounding sets, shape (B,), bool.
        step: ``y - x - g(x)``, shape (B, ...): x + step is the next plain iterate.
    """

    x: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor
    step: Tensor


@torch.no_grad()
def solve_fixed_point(
    branch: Callable[[Tensor, Tensor], Tensor],
    y: Tensor,
    norm: Callable[[Tensor], Tensor],
    tol: Tensor,
    floor: Tensor,
    contraction: float | None,
    max_iter: int = 100,
    memory: int = 5,
    patience: int = 3,
    start: Tensor | None = None,
    first: Tensor | None = None,
) -> FixedPointResult:
    """Solves ``x + g(x) = y`` for each sample of a batch; finished samples leave the batch.

    Needs memory for ``2 memory + 7`` tensors of the size of y, or 7 if plain steps are fast, besides that of g.

    Args:
        branch: ``g(x, index)`` with x of shape (A, ...) and ``index`` (A,), the remaining samples of the batch.
        y: shape (B, ...).
        norm: maps (A, ...) to (A,).
        tol: residual at which a sample is done, shape (B,).
        floor: residual that rounding alone may cause, shape (B,): a sample is also done if its residual is at most
            this and has not improved for ``patience`` evaluations.
        contraction: L, a bound of Lip(g) in ``norm``; None if no bound is known (then any decrease is accepted).
        max_iter: largest number of evaluations of g.
        memory: number of earlier steps that the acceleration combines; 0 is the plain iteration.
        patience: see ``floor``. A sample above the floor continues up to ``max_iter``, also without progress.
        start: initial x; y by default.
        first: g of the start, if the caller has it already; it counts as an evaluation.
    """
    result = FixedPointResult(
        torch.empty_like(y),
        torch.empty_like(tol),
        torch.empty_like(tol, dtype=torch.long),
        torch.empty_like(tol, dtype=torch.bool),
        torch.empty_like(y),
    )
    s = _Samples.at(y, y if start is None else start, tol, floor)
    look_every = 1 if y.device.type == 'cpu' else LOOK_EVERY

    for k in range(max_iter):
        g = branch(s.trial, s.index) if k or first is None else first
        trial_step = s.target - s.trial - g
        trial_size = norm(trial_step)
        s.iterations = s.iterations + s.active
        better = (trial_size < s.best_size) & s.active
        s.best, s.best_step = _where(better, s.trial, s.best), _where(better, trial_step, s.best_step)
        s.best_size = torch.where(better, trial_size, s.best_size)
        s.stalled = torch.where(better, 0, s.stalled + 1)

        s.start = torch.where(s.accepted == 0, trial_size, s.start)
        allowed = (
            s.size
            if contraction is None
            else torch.maximum(contraction * s.size, SLACK * s.start * contraction**s.accepted)
        )
        s.keep = (s.plain | (trial_size <= allowed)) & trial_size.isfinite()
        if memory and k % look_every == 1 % look_every:
            s.slow = s.slow | ((trial_size > PLAIN_RATE * s.size) & (s.best_size > torch.maximum(s.tol, s.floor)))
            if not s.accelerates and (s.slow & s.active).any():
                s.accelerate(memory)
        if s.accelerates:
            s.remember(k % memory, trial_step)
        s.accepted = s.accepted + s.keep
        s.point, s.step = _where(s.keep, s.trial, s.point), _where(s.keep, trial_step, s.step)
        s.size = torch.where(s.keep, trial_size, s.size)

        done = (s.best_size <= s.tol) | ((s.best_size <= s.floor) & (s.stalled >= patience))
        s.converged = s.converged | (done & s.active)
        # If even the plain step gives a residual that is not finite, there is nothing left to try.
        s.active = s.active & ~done & (s.keep | ~s.plain)
        if (k + 1) % look_every == 0 and not s.active.all():
            s.write(result)
            if not s.active.any():
                return result
            s = s.select(s.active)
        s.trial = s.point + s.step
        if s.accelerates:
            s.trial = _where(s.keep & s.slow, s.trial - s.correction(), s.trial)
        s.plain = ~(s.keep & s.slow)
    s.write(result)
    return result


@dataclass
class _Samples:
    """The remaining samples; they are the first dimension of every field."""

    index: Tensor  # their indices in the batch
    target: Tensor  # y
    tol: Tensor
    floor: Tensor
    trial: Tensor  # the point to evaluate next
    plain: Tensor  # whether `trial` comes from a plain step
    keep: Tensor  # whether the last trial was accepted
    slow: Tensor  # whether a plain step was ever too slow
    point: Tensor  # last accepted x; below, its r and |r|
    step: Tensor
    size: Tensor
    start: Tensor  # the first |r|
    accepted: Tensor  # accepted points
    best: Tensor  # the iterate with the smallest |r|; below, its r and |r|
    best_step: Tensor
    best_size: Tensor
    stalled: Tensor  # evaluations since |r| was smallest
    iterations: Tensor
    active: Tensor  # not done
    converged: Tensor
    # Differences between successive accepted points, (A, memory, numbers); empty until acceleration starts.
    d_step: Tensor  # of r
    d_next: Tensor  # of x + r
    valid: Tensor  # which of the differences are used, (A, memory)

    @classmethod
    def at(cls, y: Tensor, start: Tensor, tol: Tensor, floor: Tensor) -> '_Samples':
        index = torch.arange(len(y), device=y.device)
        zero, far, yes = torch.zeros_like(index), torch.full_like(tol, torch.inf), index >= 0
        past = y.new_zeros(len(y), 0, y[0].numel())
        return cls(
            index=index,
            target=y,
            tol=tol,
            floor=floor,
            trial=start,
            plain=yes,
            keep=yes,
            slow=~yes,
            point=start,
            step=torch.zeros_like(y),
            size=far,
            start=far,
            accepted=zero,
            best=start,
            best_step=torch.zeros_like(y),
            best_size=far,
            stalled=zero,
            iterations=zero,
            active=yes,
            converged=~yes,
            d_step=past,
            d_next=past,
            valid=yes.new_zeros(len(y), 0),
        )

    @property
    def accelerates(self) -> bool:
        return self.valid.shape[1] > 0

    def accelerate(self, memory: int) -> None:
        """Starts to combine steps for the samples that are slow."""
        past = self.step.new_zeros(len(self.step), memory, self.step[0].numel())
        self.d_step, self.d_next = past, past.clone()
        self.valid = self.keep.new_zeros(len(self.keep), memory)

    def select(self, mask: Tensor) -> '_Samples':
        return _Samples(*(getattr(self, f.name)[mask] for f in fields(self)))

    def write(self, result: FixedPointResult) -> None:
        for whole, part in zip(
            result, (self.best, self.best_size, self.iterations, self.converged, self.best_step), strict=True
        ):
            whole[self.index] = part

    def remember(self, slot: int, trial_step: Tensor) -> None:
        """Stores the difference between the trial and the last accepted point; a rejected trial clears the memory."""
        # For rejected trials zeros are stored: they may not be finite, and 0 times inf is not 0.
        d_step = _where(self.keep, trial_step - self.step, torch.zeros_like(self.step))
        self.d_step[:, slot] = d_step.flatten(1)
        self.d_next[:, slot] = _where(self.keep, self.trial - self.point + d_step, d_step).flatten(1)
        self.valid[:, slot] = (self.accepted > 0) & self.slow
        self.valid &= self.keep[:, None]

    def correction(self) -> Tensor:
        """``(dX + dR) gamma`` with ``gamma = argmin |r - dR gamma|_2``, to subtract from ``x + r``: Anderson, type II.

        Columns that are not used get a gamma of 0. A small ridge keeps the normal equations solvable if columns are
        parallel.
        """
        gram = (self.d_step @ self.d_step.mT).double()
        scale = gram.diagonal(dim1=1, dim2=2).sqrt()
        counts = self.valid & (scale > 0) & scale.isfinite()
        inverse = torch.where(counts, 1 / scale, 0)
        ridge = 1e-10 if self.step.dtype == torch.float64 else 1e-6
        eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        gram = (
            torch.where(counts[:, :, None] & counts[:, None, :], gram * inverse[:, :, None] * inverse[:, None, :], eye)
            + ridge * eye
        )
        right = torch.where(counts, (self.d_step @ self.step.flatten(1)[..., None])[..., 0].double() * inverse, 0)
        gamma = torch.linalg.solve_ex(gram, right)[0] * inverse  # no check of errors, which would wait
        return (gamma.to(self.step.dtype)[:, None] @ self.d_next).reshape(self.step.shape)


def _where(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``torch.where`` with one flag per sample."""
    if mask.device.type == 'cpu':  # reading the mask costs nothing there, and may save a copy
        if mask.all():
            return a
        if not mask.any():
            return b
    return torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b)

"""The largest image with which a training step fits into a memory.

The memory of a step is a line in the number of pixels, ``a + b H W``. Two sizes give the line, and the line gives a
size. This size and the next larger one are counted as well: the first fits, the second does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

from mmengine.config import Config

from .training_memory import TrainingMemory, training_memory

STEP = 32  # pixels: heights that are tried are multiples of this, and so are widths


class LargestImage(NamedTuple):
    """What fits into a memory.

    Attributes:
        activations: ``'stored'`` or ``'memory-free'``.
        budget: the memory, in bytes.
        size: (H, W) of the largest image, or None if the smallest does not fit.
        total: bytes that training takes at this size.
        beyond: (H, W) of the next larger image.
        total_beyond: bytes that training takes there.
    """

    activations: str
    budget: int
    size: tuple[int, int] | None
    total: int
    beyond: tuple[int, int]
    total_beyond: int


def largest_images(cfg: Config, budgets: Sequence[int], size: Sequence[int]) -> Iterator[LargestImage]:
    """The largest images, of the shape of ``size``, for every memory and each way to keep activations.

    Args:
        cfg: see :func:`~.training_memory.training_memory`.
        budgets: bytes.
        size: (H, W) of the images that the config trains on.
    """

    def sized(k: int) -> tuple[int, int]:
        return k * STEP, max(round(k * size[1] / size[0]), 1) * STEP

    @cache
    def memory(k: int) -> TrainingMemory:
        return training_memory(cfg, sized(k))

    usual = max(size[0] // STEP, 2)
    for name, step in memory(usual).steps.items():
        if isinstance(step, str):
            continue
        for budget in budgets:
            k = _largest(lambda k, name=name: _total(memory(k), name), lambda k: k * sized(k)[1], usual, budget)
            totals = [_total(memory(n), name) if n else 0 for n in (k, k + 1)]
            yield LargestImage(name, budget, sized(k) if k else None, totals[0], sized(k + 1), totals[1])


def _total(memory: TrainingMemory, name: str) -> float:
    step = memory.steps[name]
    return float('inf') if isinstance(step, str) else memory.total(step)


def _largest(total: Callable[[int], float], pixels: Callable[[int], int], usual: int, budget: int) -> int:
    """The largest k with ``total(k) <= budget``; 0 if there is none.

    Counting takes time, so every next k is the one at which the line through the last two meets the budget.
    """
    fits, fails, before, k = 0, None, max(usual // 2, 1), usual
    while fails is None or fails > fits + 1:
        if total(k) <= budget:
            fits = max(fits, k)
        else:
            fails = k if fails is None else min(fails, k)
        slope = (total(k) - total(before)) / (pixels(k) - pixels(before))
        meets = k if slope > 0 else 2 * k if fails is None else (fits + fails) // 2
        while slope > 0 and meets > 1 and total(k) + (pixels(meets) - pixels(k)) * slope > budget:
            meets -= 1
        while slope > 0 and total(k) + (pixels(meets + 1) - pixels(k)) * slope <= budget:
            meets += 1
        # it has to lie between what is known: where the line says the largest that fits, see that the next does not
        found = meets + 1 if meets == fits else meets
        found = max(found, fits + 1) if fails is None else min(max(found, fits + 1), fails - 1)
        before, k = k, found
    return fits

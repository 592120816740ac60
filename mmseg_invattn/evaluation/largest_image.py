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
    """The largest k with ``total(k) <= budget``, near what the line through two sizes says; 0 if there is none."""
    half = usual // 2
    slope = (total(usual) - total(half)) / (pixels(usual) - pixels(half))
    room = budget - total(half)
    k = half
    while (pixels(k + 1) - pixels(half)) * slope <= room:
        k += 1
    while k and total(k) > budget:
        k -= 1
    while total(k + 1) <= budget:
        k += 1
    return k

"""Scores from areas, and how sure a difference between two heads is.

Two things are random: the seed of a training, and which images happen to be in the split. With d_s the difference of
the mIoU for seed s, S seeds and D their mean, the interval of 95 % is

    D +- sqrt( (t_{S-1} sd(d_s) / sqrt(S))^2 + (1.96 sd_images(D))^2 )

sd_images by a paired bootstrap: images are drawn anew, the same for both heads and all seeds, and D is computed from
their areas. With one seed only the images are random, and the interval is that of the bootstrap's percentiles: it says
nothing about another training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

DRAWS = 2000


class Scores(NamedTuple):
    """In percent; ``iou`` of shape (..., classes), NaN for a class that is neither there nor predicted."""

    miou: np.ndarray | float
    aacc: np.ndarray | float
    iou: np.ndarray


class Areas(NamedTuple):
    """``counts[i] = (intersection, predicted, true)`` pixels of image i, shape (images, 3, classes)."""

    counts: np.ndarray

    def total(self) -> np.ndarray:
        return self.counts.sum(0)

    def drawn(self, weights: np.ndarray) -> np.ndarray:
        """Totals in which image i counts ``weights[:, i]`` times, shape (draws, 3, classes)."""
        images, three, classes = self.counts.shape
        return (weights @ self.counts.reshape(images, -1).astype(np.float64)).reshape(-1, three, classes)


class Difference(NamedTuple):
    """Of the mIoU of two heads, in percentage points.

    Attributes:
        per_seed: seed -> difference.
        mean: over the seeds.
        low: of the interval of 95 %.
        high: likewise.
    """

    per_seed: dict[int, float]
    mean: float
    low: float
    high: float


def scores(total: np.ndarray) -> Scores:
    """Scores of areas of shape (..., 3, classes)."""
    intersection, predicted, true = np.moveaxis(np.asarray(total, np.float64), -2, 0)
    union = predicted + true - intersection
    with np.errstate(invalid='ignore', divide='ignore'):
        iou = 100 * intersection / union
        aacc = 100 * intersection.sum(-1) / true.sum(-1)
        # not nanmean: it warns where no class is left
        miou = np.nansum(iou, -1) / np.isfinite(iou).sum(-1)
    return Scores(miou, aacc, iou)


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation where there are two values or more."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def difference(ours: dict[int, Areas], baseline: dict[int, Areas], draws: int = DRAWS) -> Difference | None:
    """Difference of the mIoU over the seeds that both heads have; None where they have none in common.

    Args:
        ours: seed -> areas of the head.
        baseline: likewise; the images are the same, in the same order.
        draws: of the bootstrap.
    """
    seeds = sorted(set(ours) & set(baseline))
    if not seeds:
        return None
    images = len(ours[seeds[0]].counts)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(images, np.full(images, 1 / images), size=draws).astype(np.float64)
    per_seed = {s: float(scores(ours[s].total()).miou - scores(baseline[s].total()).miou) for s in seeds}
    drawn = np.mean([scores(ours[s].drawn(weights)).miou - scores(baseline[s].drawn(weights)).miou for s in seeds], 0)
    mean, deviation = spread(list(per_seed.values()))
    if deviation is None:
        low, high = np.nanpercentile(drawn, [2.5, 97.5])
        return Difference(per_seed, mean, float(low), float(high))
    of_seeds = student.ppf(0.975, len(seeds) - 1) * deviation / len(seeds) ** 0.5
    half = float(np.hypot(of_seeds, 1.96 * np.nanstd(drawn)))
    return Difference(per_seed, mean, mean - half, mean + half)

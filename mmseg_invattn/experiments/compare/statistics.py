"""Scores from areas, and confidence intervals of the difference between two heads.

Heads are compared in pairs of one seed: with d_s the difference of the mIoU for seed s, S seeds and D their mean,

    D +- t sd(d_s) / sqrt(S),    t the 97.5 % quantile of Student's distribution with S - 1 degrees of freedom

contains the mean over all seeds in 95 % of the comparisons. It covers other trainings, evaluated on the same images.
One seed has no interval. The effect of other images is estimated by a paired bootstrap: images are drawn with
replacement, the same for both heads and all seeds, and sd_images(D) is the standard deviation of the resulting D. This
variation is independent of that of the seeds, so that together they give

    D +- sqrt( (t sd(d_s) / sqrt(S))^2 + (1.96 sd_images(D))^2 )

If the true difference is ``(t + t_80) sd(d_s) / sqrt(S)``, with t_80 the 80 % quantile, the interval excludes 0 in
about four of five comparisons. This is the difference that S seeds can show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

DRAWS = 2000
EQUAL = 1e-9  # percentage points; smaller differences are rounding


class Scores(NamedTuple):
    """Scores in per cent; ``iou`` of shape (..., classes) is NaN for a class that no label and no prediction has."""

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


class Paired(NamedTuple):
    """Differences of the mIoU of two heads, in percentage points; None for values that need more seeds.

    Attributes:
        per_seed: seed -> difference.
        mean: mean over the seeds.
        deviation: sd(d_s). If it is 0 there is no interval, because seeds that do not differ tell nothing about others.
        low: lower end of the 95 % interval for other trainings on these images.
        high: upper end of that interval.
        detectable: true difference that four of five such comparisons would show.
    """

    per_seed: dict[int, float]
    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    detectable: float | None


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


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Paired | None:
    """Difference over the seeds that both heads have; None if they have no seed in common.

    Args:
        ours: seed -> mIoU of the head.
        theirs: seed -> mIoU of the head with which it is compared.
    """
    per_seed = {seed: ours[seed] - theirs[seed] for seed in sorted(set(ours) & set(theirs))}
    if not per_seed:
        return None
    mean, deviation = spread(list(per_seed.values()))
    if not deviation or deviation < EQUAL:
        return Paired(per_seed, mean, None if deviation is None else 0.0, None, None, None)
    error, freedom = deviation / len(per_seed) ** 0.5, len(per_seed) - 1
    half = float(student.ppf(0.975, freedom)) * error
    return Paired(per_seed, mean, deviation, mean - half, mean + half, half + float(student.ppf(0.8, freedom)) * error)


def scatter_of_images(ours: Mapping[int, Areas], theirs: Mapping[int, Areas], draws: int = DRAWS) -> float | None:
    """sd_images(D) over the seeds that both heads have; None if they have no seed in common.

    Args:
        ours: seed -> areas of the head.
        theirs: seed -> areas of the other head, for the same images in the same order.
        draws: number of draws of the bootstrap.
    """
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        return None
    images = len(ours[seeds[0]].counts)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(images, np.full(images, 1 / images), size=draws).astype(np.float64)
    drawn = np.mean([scores(ours[s].drawn(weights)).miou - scores(theirs[s].drawn(weights)).miou for s in seeds], 0)
    return float(np.nanstd(drawn))


def with_other_images(found: Mapping) -> tuple[float, float] | None:
    """The interval that also covers other images, from a difference and its ``scatter_of_images``, if it has both."""
    if found['low'] is None or found['scatter_of_images'] is None:
        return None
    half = float(np.hypot(found['high'] - found['mean'], 1.96 * found['scatter_of_images']))
    return found['mean'] - half, found['mean'] + half

"""Learning curves and times of a run, from the scalars that MMEngine logs. If a run was resumed, later values count.

Long curves are reduced to means over neighbouring points, so that the results of many runs stay small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import numpy as np

from ...engine.scalars import SCALARS, read_entries

POINTS = 60


def read_curves(folder: Path) -> dict:
    """Curves of a run.

    Returns:
        ``loss`` and ``miou`` (``steps`` and ``values``, the latter on the validation split),
        ``seconds_per_iteration`` (median over the log, data loading included) and ``memory_bytes`` (peak of the GPU's
        allocator); None for values that were not logged.
    """
    train, validation = {}, {}
    for entry in read_entries(sorted(folder.glob(f'*/{SCALARS}'))):
        if math.isfinite(entry.get('loss', math.nan)):
            train[entry['step']] = entry
        elif math.isfinite(entry.get('mIoU', math.nan)):  # a validation; its time is not that of an iteration
            validation[entry['step']] = entry
    times = [entry['time'] for entry in train.values() if 'time' in entry]
    memory = [entry['memory'] for entry in train.values() if 'memory' in entry]
    return dict(
        loss=_curve({step: entry['loss'] for step, entry in train.items()}),
        miou=_curve({step: entry['mIoU'] for step, entry in validation.items()}),
        seconds_per_iteration=median(times) if times else None,
        memory_bytes=max(memory) * 2**20 if memory else None,
    )


def _curve(points: Mapping[int, float]) -> dict[str, list]:
    """The curve in ascending steps, with a limited number of points."""
    steps = sorted(points)
    parts = np.array_split(np.array(steps, dtype=np.float64), min(len(steps), POINTS)) if steps else []
    return dict(
        steps=[round(float(part.mean())) for part in parts],
        values=[float(f'{np.mean([points[int(step)] for step in part]):.5g}') for part in parts],
    )

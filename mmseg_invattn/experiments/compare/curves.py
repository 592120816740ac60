"""Learning curves and times of a run, from the scalars that MMEngine logs; of a resumed run the later start counts."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import median

from ...engine.scalars import SCALARS, read_entries


def read_curves(folder: Path) -> dict:
    """Curves of a run.

    Returns:
        ``loss`` and ``miou`` (lists of (iteration, value), the latter on the validation split),
        ``seconds_per_iteration`` (median over the log, data loading included) and ``memory_bytes`` (peak of the GPU's
        allocator); None for what was not logged.
    """
    train, validation = {}, {}
    for entry in read_entries(sorted(folder.glob(f'*/{SCALARS}'))):
        if math.isfinite(entry.get('loss', math.nan)):
            train[entry['step']] = entry
        elif math.isfinite(entry.get('mIoU', math.nan)):  # it has a time as well, but not of an iteration
            validation[entry['step']] = entry
    times = [entry['time'] for entry in train.values() if 'time' in entry]
    memory = [entry['memory'] for entry in train.values() if 'memory' in entry]
    return dict(
        loss=[[step, train[step]['loss']] for step in sorted(train)],
        miou=[[step, validation[step]['mIoU']] for step in sorted(validation)],
        seconds_per_iteration=median(times) if times else None,
        memory_bytes=max(memory) * 2**20 if memory else None,
    )

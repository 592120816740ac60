"""The scalars of training runs, as MMEngine's ``LocalVisBackend`` writes them: one JSON object a line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SCALARS = 'vis_data/scalars.json'
SMALLER_IS_BETTER = ('loss', 'time', 'memory', 'error', 'iterations', 'evaluations', 'saturated')


@dataclass(frozen=True)
class Curve:
    """A scalar over the steps of a run, including values that are not finite.

    Attributes:
        steps: the steps, ascending.
    """

    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class Run:
    """The curves of a run, by name."""

    name: str
    curves: dict[str, Curve]


def find_logs(path: Path) -> list[Path]:
    """The files of scalars of a run, oldest first; every start of the run writes another one.

    Raises:
        FileNotFoundError: There is none.
    """
    if path.is_file():
        return [path]
    found = sorted(path.glob(f'*/{SCALARS}')) or sorted(path.glob(SCALARS)) or sorted(path.glob('scalars.json'))
    if not found:
        raise FileNotFoundError(
            f'{path}: there is no {SCALARS} in this folder or below its folders; give the work '
            "directory of a run, whose visualizer has vis_backends=[dict(type='LocalVisBackend')]"
        )
    return found


def read_entries(files: Iterable[Path]) -> Iterator[dict]:
    """The entries of files of scalars, each with its ``step``, in the order in which they were written.

    Raises:
        ValueError: A line is no JSON object; names it.
    """
    for file in files:
        lines = file.read_text(encoding='utf-8').splitlines()
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                entry['step'] = int(entry['step'])
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines):  # a run that is being written, or was killed
                    continue
                raise ValueError(f'{file}, line {number}: no scalars with a step stand here ({error!r})') from error
            yield entry


def read_run(path: Path, name: str | None = None) -> Run:
    """The curves of a run; of a run that was resumed, each step as it was written last.

    Args:
        path: The work directory, or a file of scalars.
        name: Of the run; None takes the folder's.

    Raises:
        FileNotFoundError: There are no scalars.
        ValueError: A line is no JSON object; names it.
    """
    points: dict[str, dict[int, float]] = {}
    for entry in read_entries(find_logs(path)):
        for key, value in entry.items():
            if key not in ('step', 'iter', 'epoch') and isinstance(value, int | float):
                points.setdefault(key, {})[entry['step']] = float(value)
    curves = {key: Curve(sorted(values), [values[step] for step in sorted(values)]) for key, values in points.items()}
    return Run(name or (path.name if path.is_dir() else path.stem), curves)


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Several runs under names that differ: where the last folders are alike, more of the path is taken.

    The name of a file is taken without its suffix, unless it differs from another in that alone.
    """
    places = [path.resolve() for path in paths]
    bare = [place.with_suffix('') if place.is_file() else place for place in places]
    places = bare if len(set(bare)) == len(set(places)) else places
    longest = max((len(place.parts) for place in places), default=1)
    for depth in range(1, longest + 1):
        names = ['/'.join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            return [read_run(path, name) for path, name in zip(paths, names, strict=True)]
    raise ValueError(f'the same run is given twice: {", ".join(map(str, paths))}; leave one out')


def last_and_best(key: str, curve: Curve) -> tuple[tuple[int, float], tuple[int, float]] | None:
    """(step, value) of the last and of the best finite value; None where there is none.

    Losses, times, memory and errors are best where they are small, all else where it is large.
    """
    finite = [(step, value) for step, value in zip(curve.steps, curve.values, strict=True) if math.isfinite(value)]
    if not finite:
        return None
    choose = min if any(word in key for word in SMALLER_IS_BETTER) else max
    return finite[-1], choose(finite, key=lambda point: point[1])

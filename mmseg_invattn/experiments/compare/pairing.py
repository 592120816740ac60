"""Checks that heads with the same seed see the same images in the same order, and lists their other differences."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from mmengine.config import Config

from ...compat import type_name

SAMPLER, SEEDED = 'ResumableInfiniteSampler', 'SeedTransforms'
SEEN = ('batch_size', 'dataset', 'sampler')  # of train_dataloader; the number of workers changes only the speed
# settings that differ between heads or runs by design
OWN = ('model.decode_head', 'work_dir', 'randomness.seed')
DEPTH = 3


class Named(Protocol):
    """A config and the name of its head; a run has both."""

    @property
    def name(self) -> str: ...

    @property
    def cfg(self) -> Config: ...


def unpaired(runs: Sequence[Named]) -> list[str]:
    """Why runs with the same seed would train on different images, in another order, or with other augmentation.

    Args:
        runs: one run of each config, the baseline first.
    """
    found = []
    first = runs[0]
    for run in runs:
        loader = run.cfg.get('train_dataloader') or {}
        sampler = type_name(loader.get('sampler') or {})
        if sampler != SAMPLER:
            found.append(f'{run.name} draws its images with {sampler}, not with {SAMPLER}')
        if not all(pipeline and type_name(pipeline[0]) == SEEDED for pipeline in _pipelines(loader.get('dataset'))):
            found.append(f'the training pipeline of {run.name} does not begin with {SEEDED}')
        other = first.cfg.get('train_dataloader') or {}
        different = [key for key in SEEN if _plain(loader.get(key)) != _plain(other.get(key))]
        if different:
            keys = ', '.join(f'train_dataloader.{key}' for key in different)
            found.append(f'{run.name} and {first.name} differ in {keys}')
    return found


def recipe(cfg: Config) -> dict:
    """The settings that heads have in common, as plain values for JSON."""
    content = for_json(cfg.to_dict())
    for path in OWN:
        *parents, last = path.split('.')
        part = content
        for key in parents:
            part = part.get(key) or {}
        part.pop(last, None)
    return content


def for_json(settings: Any) -> Any:
    """Settings as plain values for JSON; others as text."""
    return json.loads(json.dumps(_plain(settings), default=str))


def set_apart(cfg: Config, other: Config) -> list[str]:
    """Settings beside the decode head in which two configs differ, as paths of at most three names."""
    different = _different(_plain(cfg.to_dict()), _plain(other.to_dict()), '', 0)
    return sorted({path for path in different if not path.startswith(OWN)})


def _different(ours: Any, theirs: Any, path: str, depth: int) -> Iterator[str]:
    if ours == theirs:
        return
    if depth == DEPTH or path in OWN or not (isinstance(ours, Mapping) and isinstance(theirs, Mapping)):
        yield path
        return
    for key in {*ours, *theirs}:
        below = f'{path}.{key}' if path else key
        if key not in ours or key not in theirs:
            yield below
        else:
            yield from _different(ours[key], theirs[key], below, depth + 1)


def _pipelines(dataset: Any) -> Iterator[Sequence[Mapping]]:
    """The pipelines of a data set and of those that it wraps."""
    if isinstance(dataset, Mapping):
        if 'pipeline' in dataset:
            yield dataset['pipeline']
        for key in ('dataset', 'datasets'):
            yield from _pipelines(dataset.get(key))
    elif isinstance(dataset, list | tuple):
        for item in dataset:
            yield from _pipelines(item)


def _plain(value: Any) -> Any:
    """The value with lists instead of tuples, and plain dicts instead of MMEngine's; infinity as a word."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value

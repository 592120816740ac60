"""The protocol of a comparison for the top of the report: the length of the training, and the changed settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmengine.config import Config

from ...engine.config_file import NEW, read_config, value_at
from .pairing import recipe, set_apart, unpaired
from .plan import Run

LENGTHS = ('max_iters', 'max_epochs')


def protocol(runs: Sequence[Run], options: Mapping | None) -> dict:
    """The protocol as plain values.

    Args:
        runs: one run of each config, the baseline first.
        options: options of ``--cfg-options``.

    Returns:
        ``schedules`` (each with its ``heads``, ``length``, ``unit``, ``batch`` and, where an option changed the length,
        ``planned``), ``changes`` (each with ``key``, ``was``, the values of the configs, and ``now``), ``unpaired``
        (sentences), ``apart`` (name of a head -> settings beside the decode head that it does not share with the
        baseline) and ``recipe`` (the config of the baseline without what differs between heads and runs by design);
        ``unpaired`` and ``apart`` are empty for weights that were given.
    """
    files = {run.name: read_config(run.source) for run in runs}
    trained = [run for run in runs if run.checkpoint is None]
    return dict(
        schedules=merged_schedules(dict(_schedule(run.cfg, files[run.name]), heads=[run.name]) for run in trained),
        changes=[_change(key, value, list(files.values())) for key, value in (options or {}).items()],
        unpaired=unpaired(trained) if trained else [],
        apart={run.name: keys for run in trained[1:] if (keys := set_apart(run.cfg, trained[0].cfg))},
        recipe=recipe(runs[0].cfg),
    )


def merged_schedules(found: Iterable[dict]) -> list[dict]:
    """Schedules that differ in nothing but their heads become one."""
    merged: list[dict] = []
    for one in found:
        same = next((other for other in merged if {**other, 'heads': None} == {**one, 'heads': None}), None)
        if same is None:
            merged.append(dict(one, heads=list(one['heads'])))
        else:
            same['heads'] += [name for name in one['heads'] if name not in same['heads']]
    return merged


def _schedule(cfg: Config, file: Config) -> dict:
    training = cfg.get('train_cfg') or {}
    unit = next((key for key in LENGTHS if key in training), None)
    planned = (file.get('train_cfg') or {}).get(unit)
    length = training.get(unit)
    return dict(
        length=length,
        unit=(unit or 'max_iters').removeprefix('max_').replace('iters', 'iterations'),
        batch=(cfg.get('train_dataloader') or {}).get('batch_size'),
        planned=None if planned == length else planned,
    )


def _change(key: str, value: Any, files: Sequence[Config]) -> dict:
    path = key.removeprefix(NEW)
    was = list(dict.fromkeys(str(value_at(file.to_dict(), path, 'nothing')) for file in files))
    return dict(key=path, was=' or '.join(was), now=str(value))

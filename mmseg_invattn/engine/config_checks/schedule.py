"""Compares schedules with the length of the training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from ...compat import type_name
from .tree import ConfigError

WARM_UP = ('LinearLR', 'LinearParamScheduler', 'ConstantLR', 'ConstantParamScheduler')
EARLY = 0.9  # a schedule that ends before this share of the training gives a remark


def _schedulers(config: Mapping) -> Iterator[tuple[str, Mapping]]:
    found = config.get('param_scheduler') or []
    single = isinstance(found, Mapping)
    for index, one in enumerate([found] if single else found):
        if isinstance(one, Mapping) and 'type' in one:
            yield 'param_scheduler' if single else f'param_scheduler.{index}', one


def _iterations(config: Mapping) -> int | None:
    """Iterations of an iteration loop; None in a loop of epochs."""
    return (config.get('train_cfg') or {}).get('max_iters')


def check_units(config: Mapping) -> None:
    """Check that an iteration loop, which has no epochs, has no scheduler that counts epochs.

    Raises:
        ConfigError: It has one.
    """
    if _iterations(config) is None:
        return
    for path, one in _schedulers(config):
        if one.get('by_epoch', True) and not one.get('convert_to_iter_based'):
            raise ConfigError(
                f'{path} ({type_name(one)}) counts epochs (by_epoch={one.get("by_epoch", "True, the default")}), but '
                f'the training runs over train_cfg.max_iters={_iterations(config)} iterations, so that it would never '
                'take a step: set by_epoch=False, and give begin and end in iterations'
            )


def remarks(config: Mapping) -> list[str]:
    """What is probably unintended about the schedules, one sentence each."""
    total = _iterations(config)
    if total is None:
        return []
    found = []
    for path, one in _schedulers(config):
        begin, end = one.get('begin', 0), one.get('end', math.inf)
        named = f'{path} ({type_name(one)})'
        if begin >= total:
            found.append(f'{named} begins at {begin} but train_cfg.max_iters is {total}: it never acts')
        elif total < end < math.inf:
            found.append(
                f'{named} ends at {end} but train_cfg.max_iters is {total}: the training stops before '
                'the schedule has reached its end value'
            )
    ends = [(one.get('end', math.inf), path, type_name(one)) for path, one in _schedulers(config) if not _warms_up(one)]
    if ends and max(ends)[0] < EARLY * total:
        end, path, kind = max(ends)
        found.append(
            f'{path} ({kind}) ends at {end} but train_cfg.max_iters is {total}: the learning rate stays at its end '
            f'value for the last {total - end} iterations'
        )
    return found


def _warms_up(scheduler: Mapping) -> bool:
    return type_name(scheduler) in WARM_UP and scheduler.get('start_factor', 1 / 3) <= scheduler.get('end_factor', 1.0)

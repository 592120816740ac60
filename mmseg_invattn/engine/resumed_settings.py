"""Applies settings that were changed before ``--resume``, which the state in the checkpoint would silently override.

MMEngine restores learning rates, weight decays and schedules with the state of the optimiser, whatever the config and
the command line say. Here changed settings are applied, or refused if that is impossible; a message names both values.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.optim import OptimWrapperDict

from .embedded_config import UnsafeConfigError, embedded_text, read_embedded
from .settings import Difference, differing_models, said, type_of

SHOWN = 8  # changes that a message names
INITIAL = 'initial_'  # prefix of the start value of a setting that a scheduler changes
PROGRESS = frozenset(['last_step', '_global_step', '_last_value', 'base_values', 'verbose'])  # of a scheduler
STARTS = frozenset(['pretrained', 'init_cfg'])  # where the weights came from before there was a checkpoint


class ResumedSettingError(ValueError):
    """A setting was changed that can have no effect on a resumed run."""


def apply_changes(runner: Any, checkpoint: dict, name: str) -> list[str]:
    """Replace the settings in the state that a run is about to restore by those of its config.

    Args:
        runner: The Runner; its optimisers and schedulers are built and have not stepped.
        checkpoint: Content of the checkpoint from which it resumes; it is changed in place.
        name: Name of the checkpoint.

    Returns:
        The changes, in words.

    Raises:
        ResumedSettingError: A changed setting cannot be applied.
    """
    trained = _trained_config(checkpoint, name)
    if trained is not None:
        _check_types(runner.cfg, trained, name)
    changed = [] if trained is None else list(_changed_model(runner.cfg, trained, name))
    for title, wrapper, state, schedulers, states in _optimisers(runner, checkpoint):
        changed += _apply(title, wrapper, state, schedulers, states, checkpoint['meta'], name)
    return changed


def _trained_config(checkpoint: Mapping, name: str) -> dict | None:
    text = embedded_text(checkpoint)
    try:
        return None if text is None else read_embedded(text, name)
    except UnsafeConfigError:  # of a checkpoint that is trusted
        return None


def _check_types(cfg: Mapping, trained: Mapping, name: str) -> None:
    """Refuse an optimiser of another type, which cannot use the restored state."""
    here, there = ((one.get('optim_wrapper') or {}).get('optimizer') for one in (cfg, trained))
    if here and there and 'type' in here and 'type' in there and type_of(here) != type_of(there):
        raise ResumedSettingError(
            f'--resume from {name}: optim_wrapper.optimizer.type is {type_of(here)} now and was {type_of(there)} when '
            'the checkpoint was written, and the one cannot use the state of the other. Keep it, or start a new '
            f'training from these weights with --cfg-options load_from={name} without --resume'
        )


def _changed_model(cfg: Mapping, trained: Mapping, name: str) -> Iterator[str]:
    found = differing_models(cfg, trained)
    for one in found:
        if STARTS & set(one.path.split('.')):
            raise ResumedSettingError(
                f'--resume from {name}: {one.path} is {said(one.here)} now and was {said(one.there)} before, but it '
                'has no effect any more, because the weights come from the checkpoint. Leave it as it was, or start '
                'a new training without --resume'
            )
    yield from map(_in_words, found)


def _optimisers(runner: Any, checkpoint: Mapping) -> Iterator[tuple[str, Any, dict, list, list]]:
    """For each optimiser its title, wrapper and state in the checkpoint, and its schedulers and their states."""
    wrapper, state = runner.optim_wrapper, checkpoint.get('optimizer')
    schedulers, states = runner.param_schedulers, checkpoint.get('param_schedulers')
    if state is None:
        return
    if not isinstance(wrapper, OptimWrapperDict):
        yield 'optimizer', wrapper, state, schedulers or [], states or []
        return
    for key, one in wrapper.items():
        ours, theirs = ((part or {}).get(key) or [] for part in (schedulers, states))
        yield f'optimizer {key}', one, state[key], ours, theirs


def _apply(
    title: str, wrapper: Any, state: dict, schedulers: list, states: list, meta: Mapping, name: str
) -> list[str]:
    ours, theirs = wrapper.optimizer.param_groups, state['param_groups']
    if 'base_param_settings' in state and getattr(wrapper, 'base_param_settings', None) is not None:
        ours, theirs = [*ours, wrapper.base_param_settings], [*theirs, state['base_param_settings']]
    scheduled = {one.param_name for one in schedulers} | {one.get('param_name') for one in states}
    if 'momentum' in scheduled:
        scheduled |= {'betas'}
    changed: dict[str, Difference] = {}
    for group, saved in zip(ours, theirs, strict=False):
        for key, value in group.items():
            first = f'{INITIAL}{key}' if f'{INITIAL}{key}' in group and f'{INITIAL}{key}' in saved else key
            if key == 'params' or key.startswith(INITIAL) or key not in saved or (first == key and key in scheduled):
                continue
            if not _same(group[first], saved[first]):
                changed.setdefault(key, Difference(f'{title}.{key}', group[first], saved[first]))
                saved[first] = group[first]
                if first == key:
                    saved[key] = value
    schedule = [
        Difference(f'{title}, scheduler {type(one).__name__}.{key}', value, known[key])
        for one, known in zip(schedulers, states, strict=False)
        for key, value in one.state_dict().items()
        if key in known and key not in PROGRESS and not _same(value, known[key])
    ]
    if schedule or scheduled & set(changed):
        _follow(schedulers, states, meta, name, [*changed.values(), *schedule])
        for group, saved in zip(ours, theirs, strict=False):
            saved.update({key: group[key] for key in {*scheduled, 'lr'} if key in group and key in saved})
    if 'loss_scaler' in state and hasattr(wrapper, 'loss_scaler'):
        _scale(wrapper.loss_scaler.state_dict(), state, changed, title)
    return [_in_words(one) for one in (*changed.values(), *schedule)]


def _follow(schedulers: list, states: list, meta: Mapping, name: str, why: Sequence[Difference]) -> None:
    """Step the config's schedules to the iteration of the run, and replace the state to be restored by theirs.

    The rates are then the same as if the run had had these settings from its start.
    """
    for one in schedulers:
        if getattr(one, 'need_val_args', False) or not hasattr(one, '_get_value') or hasattr(one, 'monitor'):
            raise ResumedSettingError(
                f'--resume from {name}: {_in_words(why[0])}, but {type(one).__name__} depends on the metrics of past '
                'validations, which are not known. Keep the settings, or start a new training from '
                f'these weights by --cfg-options load_from={name} without --resume'
            )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torch's: no optimiser steps in between
        for iteration in range(max(meta['iter'], meta['epoch'])):
            for one in schedulers:
                if iteration < meta['epoch' if one.by_epoch else 'iter']:
                    one.step()
    states[:] = [copy.deepcopy(one.state_dict()) for one in schedulers]


def _scale(fresh: Mapping, state: dict, changed: dict[str, Difference], title: str) -> None:
    """Compare the settings of the loss scaler: how it grows, and its scale if it does not grow."""
    for key in ('growth_factor', 'backoff_factor', 'growth_interval'):
        if key in fresh and key in state['loss_scaler'] and not _same(fresh[key], state['loss_scaler'][key]):
            changed[key] = Difference(f'{title}.loss_scale.{key}', fresh[key], state['loss_scaler'][key])
            state['loss_scaler'][key] = fresh[key]


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(two, torch.Tensor):
        return torch.equal(torch.as_tensor(one).cpu(), torch.as_tensor(two).cpu())
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(_same, one, two))
    return type(one) is type(two) and one == two or (one == two and isinstance(one, int | float))


def _in_words(one: Difference) -> str:
    return f'{one.path} is {said(one.here)} now and was {said(one.there)}'


def sentence(changed: Sequence[str], name: str) -> str:
    """The message of the log about the changes."""
    more = f'; and {len(changed) - SHOWN} more' if len(changed) > SHOWN else ''
    return f'--resume from {name}: these settings were changed and hold from now on: {"; ".join(changed[:SHOWN])}{more}'

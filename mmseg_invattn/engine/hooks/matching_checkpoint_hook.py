"""Refuses a checkpoint that does not belong to the run that loads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmseg.registry import HOOKS

from ...wording import counted
from ..matching import (
    CheckpointMismatchError,
    check_parameters_finite,
    load_weights,
    load_what_fits,
    unwrapped,
    weights_of,
)
from ..settings import warn_of_settings
from ..sharding import is_sharded


@HOOKS.register_module()
class MatchingCheckpointHook(Hook):
    """Stop if the checkpoint that a Runner loads cannot be the intended one.

    - An evaluation needs all weights of the model, and no others. Settings that leave no trace in the weights, but
      differ from those of the training, give a warning.
    - ``--resume`` needs the checkpoint of the same run: weights of the same names, shapes and order, the state of the
      optimiser and of the schedulers, and averaged weights exactly if the run averages. Settings are as above.
    - A training (``load_from``) may start from weights of another model, of which some must fit.

    All three refuse weights that are not finite.

    Args:
        evaluation: Whether the Runner evaluates a checkpoint.
    """

    priority = 'VERY_HIGH'  # before EMAHook, which changes the checkpoint

    def __init__(self, evaluation: bool = False):
        self.evaluation = evaluation

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Check the checkpoint, and put bare weights into the form that MMEngine expects.

        Raises:
            CheckpointMismatchError: It is not the intended one, or holds no weights.
            NonFiniteWeightsError: Its weights are not finite.
        """
        name = str(runner._load_from or 'the checkpoint')
        weights = weights_of(checkpoint, name)
        if 'state_dict' not in checkpoint:
            alone = dict(checkpoint)
            checkpoint.clear()
            checkpoint['state_dict'] = alone
        if self.evaluation:
            load_weights(runner.model, checkpoint, name)
            warn_of_settings(runner.cfg, checkpoint, name, runner.logger.warning)
            return
        if is_sharded(runner.model):  # names and shapes are then those of the shards
            return
        check_parameters_finite(runner.model, weights, name)
        if runner._resume:
            _check_resumed(runner, checkpoint, weights, name)
            warn_of_settings(runner.cfg, checkpoint, name, runner.logger.warning)
        else:
            ours = {key: value.shape for key, value in unwrapped(runner.model).state_dict().items()}
            if not any(value.shape == ours.get(key) for key, value in weights.items()):
                raise CheckpointMismatchError(
                    f'load_from={name}: none of its weights fits the model, so that the training would start from '
                    f'scratch. It has {len(weights)}, such as {next(iter(weights))}, and the model has {len(ours)}, '
                    f'such as {next(iter(ours), "none")}'
                )


def _check_resumed(runner: Any, checkpoint: Mapping, weights: Mapping, name: str) -> None:
    missing = _parts_missing(checkpoint)
    fault = missing or (
        load_what_fits(runner.model, weights)
        or _other_order(runner, weights)
        or _other_averages(runner, checkpoint)
        or _other_optimiser(runner, checkpoint)
        or _other_schedulers(runner, checkpoint)
    )
    if fault:
        raise CheckpointMismatchError(
            f'--resume from {name}: the run cannot continue from it exactly: {fault}. '
            + ('' if missing else 'Use the config that it was written with. ')
            + f'To start a new training from its weights, use --cfg-options load_from={name} without --resume'
        )


def _parts_missing(checkpoint: Mapping) -> str:
    meta = checkpoint.get('meta') or {}
    missing = [part for part in ('meta', 'message_hub', 'optimizer') if part not in checkpoint]
    missing += [f'meta.{part}' for part in ('iter', 'epoch') if 'meta' in checkpoint and part not in meta]
    hint = ' (it was written with save_optimizer=False)' * (missing == ['optimizer'])
    return f'it has no {", no ".join(missing)}{hint}' if missing else ''


def _other_order(runner: Any, weights: Mapping) -> str:
    """Why the weights are in another order, which matters because the state of an optimiser follows that order."""
    model = unwrapped(runner.model)
    ours = [key for key, _ in model.named_parameters()]
    known = set(ours)
    theirs = [key for key in weights if key in known]
    pairs = zip(theirs, ours, strict=False)
    return next(
        (f'its weights come in another order, {one} where the model has {two}' for one, two in pairs if one != two), ''
    )


def _other_averages(runner: Any, checkpoint: Mapping) -> str:
    averages = any(isinstance(hook, EMAHook) for hook in runner.hooks)
    if averages == ('ema_state_dict' in checkpoint):
        return ''
    if averages:
        return 'the config has an EMAHook, but the checkpoint has no averaged weights (ema_state_dict)'
    return 'its weights are averages (ema_state_dict), but the config has no EMAHook'


def _other_optimiser(runner: Any, checkpoint: Mapping) -> str:
    optimiser, state = getattr(runner.optim_wrapper, 'optimizer', None), checkpoint['optimizer']
    if optimiser is None or 'param_groups' not in state:  # several optimisers, each with its own state
        return ''
    ours = [len(group['params']) for group in optimiser.param_groups]
    theirs = [len(group['params']) for group in state['param_groups']]
    if ours == theirs:
        return ''
    return (
        f'its optimiser has {counted(sum(theirs), "parameter")} in {counted(len(theirs), "group")}, but that of the '
        f'config has {sum(ours)} in {len(ours)}'
    )


def _other_schedulers(runner: Any, checkpoint: Mapping) -> str:
    ours, theirs = (_number(schedulers) for schedulers in (runner.param_schedulers, checkpoint.get('param_schedulers')))
    return f'it has {counted(theirs, "scheduler")}, but the config has {ours}' if ours != theirs else ''


def _number(schedulers: Sequence | Mapping | None) -> int:
    """The number of schedulers, which are a list, or a list for each of several optimisers."""
    if isinstance(schedulers, Mapping):
        return sum(map(len, schedulers.values()))
    return len(schedulers or ())

"""Compares the settings of a config that leave no trace in the weights with those of the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter
from typing import Any, NamedTuple

from mmseg.registry import MODELS, TRANSFORMS

from ..datasets.leaves import leaf_configs
from ..layers import FORMS
from .config_checks.signatures import signature_of
from .config_checks.tree import shown
from .embedded_config import UnsafeConfigError, embedded_text, read_embedded

SHOWN = 8  # differences that a message names
# settings that have no effect on a trained model
TRAINING = frozenset(
    [
        *(
            'pretrained',
            'init_cfg',
            'train_cfg',
            'loss_decode',
            'loss',
            'sampler',
            'dropout_ratio',
            'dropout',
            'drop_rate',
        ),
        *('drop_path_rate', 'attn_drop_rate', 'with_cp', 'norm_eval', 'frozen_stages', 'requires_grad', 'memory_free'),
        *('size', 'size_divisor', 'seg_pad_val', 'batch_augments'),  # of a preprocessor; tests use other settings
    ]
)
READING = frozenset(['backend_args', 'file_client_args', 'ignore_empty'])  # where files come from
LABELS = frozenset(['LoadAnnotations', 'StrictLoadAnnotations', 'PackSegInputs'])
MISSING = object()


class Difference(NamedTuple):
    """A path in a config, its value there, and its value in the config in the checkpoint."""

    path: str
    here: Any
    there: Any


def warn_of_settings(cfg: Mapping, checkpoint: Any, name: str, warn: Callable[[str], Any]) -> None:
    """Warn if the settings of a config differ from those that a checkpoint was trained with.

    Args:
        cfg: The config that the model is built from.
        checkpoint: Content of the file; without a config in it there is no warning.
        name: Name of the checkpoint.
        warn: Function that is called with the warning.
    """
    text = embedded_text(checkpoint)
    if text is None:
        return
    try:
        trained = read_embedded(text, name)
    except UnsafeConfigError:  # of a checkpoint that is trusted
        return
    found = differing_settings(cfg, trained)
    if found:
        listed = '; '.join(f'{one.path} is {said(one.here)} now and was {said(one.there)}' for one in found[:SHOWN])
        more = f'; and {len(found) - SHOWN} more' if len(found) > SHOWN else ''
        warn(
            f'{name} was trained with other settings, which leave no trace in its weights but change what the model '
            f'computes: {listed}{more}. Use the config that it was trained with, unless you mean to change them'
        )


def differing_settings(cfg: Mapping, trained: Mapping) -> list[Difference]:
    """Compare the settings of two configs that change what a trained model computes: the model, and how images are
    read and resized.

    A setting that one of them does not have counts with its default. Losses, initial weights, dropout and the like are
    not compared.

    Args:
        cfg: The config that is used now.
        trained: The config that the checkpoint was trained with.
    """
    return [
        *_differing('model', _inner_model(cfg), _inner_model(trained), TRAINING),
        *_differing_steps(_steps(cfg), _steps(trained)),
    ]


def differing_models(cfg: Mapping, trained: Mapping) -> list[Difference]:
    """All differences between the models of two configs, losses, initial weights and dropout included."""
    return list(_differing('model', _inner_model(cfg), _inner_model(trained), frozenset()))


def _inner_model(cfg: Mapping) -> Any:
    """The model inside the wrapper for test-time augmentation."""
    model = cfg.get('model') or {}
    return model['module'] if 'module' in model and 'backbone' not in model else model


def _steps(cfg: Mapping) -> dict[str, Mapping]:
    """The transforms of the test images by type."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset')
    for leaf in leaf_configs(dataset) if dataset else ():
        return {type_of(step).removeprefix('Strict'): step for step in leaf.get('pipeline') or () if 'type' in step}
    return {}


def _differing_steps(here: Mapping[str, Mapping], there: Mapping[str, Mapping]) -> Iterator[Difference]:
    if not here or not there:
        return
    augmented = 'TestTimeAug' in {*here, *there}
    for kind in dict.fromkeys([*there, *here]):
        path = f'test_dataloader.dataset.pipeline, {kind}'
        if kind in LABELS or (augmented and (kind not in here or kind not in there)):
            continue
        if kind in here and kind in there:
            yield from _differing(path, here[kind], there[kind], READING)
        else:
            yield Difference(path, here.get(kind, MISSING), there.get(kind, MISSING))


def _differing(path: str, here: Any, there: Any, ignored: frozenset) -> Iterator[Difference]:
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        if 'type' in here and 'type' in there and not _same_type(here, there):
            yield Difference(f'{path}.type', type_of(here), type_of(there))
            return
        for key in dict.fromkeys([*there, *here]):
            if key in ignored or key == 'type':
                continue
            one, two = (node[key] if key in node else _default(path, node, key) for node in (here, there))
            yield from _differing(f'{path}.{key}', one, two, ignored)
    elif isinstance(here, list | tuple) and isinstance(there, list | tuple) and len(here) == len(there):
        for index, (one, two) in enumerate(zip(here, there, strict=True)):
            if isinstance(one, Mapping) or isinstance(two, Mapping):
                yield from _differing(f'{path}.{index}', one, two, ignored)
            elif not _same(one, two):
                yield Difference(path, here, there)
                return
    elif not _same(here, there):
        yield Difference(path, here, there)


def type_of(node: Mapping) -> str:
    """The name of a type, which may be given as a class or a path."""
    kind = node['type']
    return (kind if isinstance(kind, str) else kind.__name__).rpartition('.')[2]


def _same_type(here: Mapping, there: Mapping) -> bool:
    one, two = (type_of(node).removeprefix('Strict') for node in (here, there))
    return one == two or {one, two} <= {'BN', 'SyncBN', 'BN2d', 'BatchNorm2d'}


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(_same, one, two))
    return one is two or (type(one) is not object and bool(one == two))


def _default(path: str, node: Mapping, key: str) -> Any:
    """The defaults of a class for the arguments that its config does not set."""
    target = None
    if 'type' in node:
        kind = node['type']
        target = (MODELS.get(kind) or TRANSFORMS.get(kind)) if isinstance(kind, str) else kind
    elif 'form' in node or path.rpartition('.')[2] == 'attention':
        target = FORMS.get(node.get('form', 'certified'))
    parameter = signature_of(target).arguments.get(key) if target is not None else None
    return MISSING if parameter is None or parameter.default is Parameter.empty else parameter.default


def said(value: Any) -> str:
    """A value as messages show it."""
    return 'not set' if value is MISSING else shown(value)

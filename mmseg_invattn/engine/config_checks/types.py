"""Checks that types are registered, that their classes take the given arguments, and that numbers are numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...compat import type_name
from .kinds import Kind, kind_at
from .signatures import SLIP, did_you_mean, near, signature_of, wrong_kind
from .tree import ConfigError, dicts, dotted, shown

# kinds whose plain dicts never hold numbers as strings
NUMBERS = ('model', 'optim_wrapper', 'randomness', 'auto_scale_lr')


def check_types(config: Mapping) -> None:
    """Check every dict from which something is built.

    Raises:
        ConfigError: A type is not registered, the class does not take an argument, or it is given a string, None or a
            list instead of a number.
    """
    albumentations = None  # its transforms are not in the registry
    for keys, node in dicts(config):
        if not keys or albumentations and keys[: len(albumentations)] == albumentations:
            continue
        if type_name(node) == 'Albu':
            albumentations = (*keys, 'transforms')
        kind = kind_at(keys, node)
        if kind is None and keys[0] in NUMBERS:
            _check_numbers(dotted(keys), node)
        # evaluators by name and the schedulers of several optimisers are dicts of dicts
        if kind is None or 'type' not in node and any(isinstance(value, Mapping) for value in node.values()):
            if kind is None or kind.default is None:
                continue
        _check(dotted(keys), node, kind)


def _check(path: str, node: Mapping, kind: Kind) -> None:
    name = node.get('type', kind.default)
    if name is None:
        if 'by_epoch' in node:  # a loop, whose class MMEngine chooses by this
            return
        raise ConfigError(
            f'{path} has no type: a {kind.name} is built from dict(type=...). It has '
            f'{", ".join(map(str, node)) or "no entries"}' + did_you_mean('type', list(node))
        )
    target = kind.find(name)
    if target is None:
        if (
            isinstance(name, str) and '.' in name
        ):  # the path of a class in another package, which is checked when it is built
            return
        raise ConfigError(
            f'{path}.type is {name!r}, but no {kind.name} of that name is registered'
            + did_you_mean(str(name), kind.names())
            + '; classes of this package or of your own must be registered by custom_imports'
            * (not near(str(name), kind.names()))
        )
    if kind.arguments:
        _check_arguments(path, node, kind, target)


def _check_arguments(path: str, node: Mapping, kind: Kind, target: Callable) -> None:
    signature = signature_of(target)
    names = sorted({*signature.arguments, *kind.given} - {'runner', 'params', 'module'})
    title = getattr(target, '__name__', str(target))
    for key, value in node.items():
        if key in kind.given or key in ('type', '_scope_', '_delete_'):
            continue
        parameter = signature.arguments.get(key)
        # if the class may take others, only a name that is similar to a known one is taken for a mistake
        if parameter is None and (not signature.open or near(key, names, SLIP)):
            meant = did_you_mean(key, names) or '.'
            raise ConfigError(
                f'{path}.{key} is {shown(value)}, but {title} takes no argument {key!r}{meant} '
                f'It takes {", ".join(names)}'
            )
        wrong = wrong_kind(value, parameter)
        if wrong is not None:
            raise ConfigError(f'{path}.{key} of {title} is {shown(value)}, {wrong}')


def _check_numbers(path: str, node: Mapping) -> None:
    for key, value in node.items():
        wrong = wrong_kind(value, None)
        if wrong is not None:
            raise ConfigError(f'{path}.{key} is {shown(value)}, {wrong}')

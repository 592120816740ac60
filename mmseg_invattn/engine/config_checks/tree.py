"""The dicts of a config and their paths, written as ``--cfg-options`` takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

Keys = tuple[str | int, ...]


class ConfigError(ValueError):
    """A mistake in a config; the message names its path, the value, the rule and the fix."""


def dotted(keys: Keys) -> str:
    """``train_dataloader.dataset.pipeline.0``."""
    return '.'.join(map(str, keys))


def dicts(node: object, keys: Keys = ()) -> Iterator[tuple[Keys, Mapping]]:
    """Every dict of a config with its path, outer ones before those inside."""
    if isinstance(node, Mapping) or keys == ():
        yield keys, node
        for key, value in node.items():
            yield from dicts(value, (*keys, key))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from dicts(value, (*keys, index))


def path_of(config: Mapping, piece: Mapping) -> str | None:
    """The place in a config from which a piece was copied, which may have been changed since; None if there is none.

    It is the dict with the same type and most of the same entries. Without a type, all entries must be the same.
    """
    best, path = -1, None
    for keys, node in dicts(config):
        if not keys or not node or node.get('type') != piece.get('type'):
            continue
        same = sum(_equal(piece.get(key), value) for key, value in node.items())
        if same > best and ('type' in node or same == len(node)):
            best, path = same, dotted(keys)
    return path


def path_of_name(config: Mapping, name: object) -> str | None:
    """The place where a config names a class without a dict, such as the constructor of optimisers."""
    if not isinstance(name, str):
        return None
    named = (
        dotted((*keys, key)) for keys, node in dicts(config) for key in node if key != 'type' and node[key] == name
    )
    return next(named, None)


def _equal(one: object, other: object) -> bool:
    return type(one) is type(other) and bool(one == other)


def shown(value: object) -> str:
    """A value as messages show it."""
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:56]} ...'

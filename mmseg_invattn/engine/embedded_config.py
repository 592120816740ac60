"""Reads the config in a checkpoint as plain values, and never runs it.

MMEngine writes the config of a run into its checkpoints as the text of a Python file. It runs that text when it
resumes, or when an inferencer is given only a checkpoint.
"""

from __future__ import annotations

import ast
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any

KEYS = ('config', 'cfg')  # keys of the config in the meta data; the message hub uses the latter
NAMING = ('type', 'constructor', 'collate_fn', 'worker_init_fn', 'runner_type', '_scope_')  # name classes or functions
SCOPES = frozenset(['mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'mmcls'])  # of registries
RUN = ('_base_', 'env_variables')  # keys that make MMEngine read other files, or change the environment


ADVICE = 'A config is a Python program. Give the config file that the model was trained with, if you trust its source'


class UnsafeConfigError(ValueError):
    """The config in a checkpoint is more than plain values."""


def read_embedded(text: str, name: str) -> dict[str, Any]:
    """The values of a config in a checkpoint. Nothing in it is run, imported or read from another file.

    Args:
        text: Assignments of numbers, strings, lists, tuples, dicts and ``dict(...)``, as ``Config.pretty_text`` is.
        name: Name of the checkpoint, for messages.

    Returns:
        The config as a dict, without ``custom_imports``.

    Raises:
        UnsafeConfigError: The text has anything else, or a class that no registry knows. The message names the line.
    """
    where = f'{name}: the config in this checkpoint is not used, because using it could run code'
    values: dict[str, Any] = {}
    if '{{' in text:  # a template, which MMEngine fills in before it reads the text as Python
        raise UnsafeConfigError(f'{where} (it holds a template, {{{{). {ADVICE}')
    try:
        for statement in ast.parse(text).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=key)], value=value):
                    values[key] = _value(value)
                case _:
                    raise _NotPlain(statement)
    except _NotPlain as fault:
        what = f'line {fault.node.lineno} is not a plain value: {_shown(fault.node)}'
        raise UnsafeConfigError(f'{where} ({what}). {ADVICE}') from fault
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise UnsafeConfigError(f'{where} ({type(error).__name__}: {error}). {ADVICE}') from error
    for key in RUN:
        if key in values:
            raise UnsafeConfigError(f'{where} (it sets {key}). {ADVICE}')
    imports = values.pop('custom_imports', None) or {}
    modules = imports.get('imports', ()) if isinstance(imports, Mapping) else [imports]
    for module in [modules] if isinstance(modules, str) else modules:
        if module not in sys.modules:  # modules that are imported already can do no more harm
            raise UnsafeConfigError(f'{where} (it imports {module!r}). {ADVICE}')
    for kind in _named(values):
        if not _is_known(kind):
            raise UnsafeConfigError(f"{where} ({kind!r} is not a class of MMSegmentation's registries). {ADVICE}")
    return values


class _NotPlain(Exception):
    """Raised at the part of an expression that is not a plain value."""

    def __init__(self, node: Any):
        self.node = node


def _value(node: ast.expr) -> Any:
    """The value of an expression that has no names, no calls except ``dict(...)``, and no operators except a sign."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)](map(_value, node.elts))
    if isinstance(node, ast.Dict):
        keys = [key for key in node.keys if key is not None]  # None: of **
        if len(keys) == len(node.values):
            return {_value(key): _value(value) for key, value in zip(keys, node.values, strict=True)}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        # dict(a=1), or dict({'a.b': 1}) if a key is not a valid name
        plain = all(keyword.arg for keyword in node.keywords) and len(node.args) <= 1
        if plain and all(isinstance(argument, ast.Dict) for argument in node.args):
            given = _value(node.args[0]) if node.args else {}
            return given | {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        number = _value(node.operand)
        if isinstance(number, int | float | complex):
            return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, ast.Name) and node.id in ('inf', 'nan'):  # as these numbers are printed
        return float(node.id)
    raise _NotPlain(node)


def _shown(node: Any) -> str:
    text = ast.unparse(node).splitlines()[0]
    return text if len(text) <= 60 else f'{text[:56]} ...'


def _named(node: Any) -> Iterator[str]:
    """Every name in a config by which MMEngine looks up a class or a function."""
    if isinstance(node, Mapping):
        yield from (node[key] for key in NAMING if isinstance(node.get(key), str))
        for value in node.values():
            yield from _named(value)
    elif isinstance(node, list | tuple | set):
        for value in node:
            yield from _named(value)


def _is_known(kind: str) -> bool:
    """Whether building this type calls only registered classes, not an arbitrary function.

    MMEngine imports a name with dots as a path if no registry has it, so that ``type='os.system'`` is a call.
    """
    package, *path = kind.split('.')
    if not path:
        return True
    if package not in sys.modules:  # then no registry can have a class of this package
        return False
    if len(path) == 1 and package in SCOPES and not hasattr(sys.modules[package], path[0]):
        return True
    from mmengine.utils import get_object_from_string
    from torch import nn

    found = get_object_from_string(kind)
    return _is_registered(found) or package == 'torch' and isinstance(found, type) and issubclass(found, nn.Module)


def _is_registered(kind: Any) -> bool:
    """Whether a name is in a registry of MMEngine, or in one of MMSegmentation's below it."""
    import mmengine.registry
    import mmseg.registry
    from mmengine.registry import Registry

    registries = (
        one
        for module in (mmengine.registry, mmseg.registry)
        for one in vars(module).values()
        if isinstance(one, Registry)
    )
    return any(kind is known for one in registries for known in one._module_dict.values())


def without_unsafe_configs(checkpoint: Any, name: str) -> Any:
    """Remove the configs in a checkpoint that are more than plain values, because MMEngine would run them.

    The log says what was removed.

    Args:
        checkpoint: Content of the file; it is changed in place.
        name: Name of the checkpoint.
    """
    from mmengine.logging import print_log

    for part, key in _places(checkpoint):
        try:
            read_embedded(part[key], name)
        except UnsafeConfigError as error:
            del part[key]
            print_log(str(error), logger='current', level=logging.WARNING)
    return checkpoint


def embedded_text(checkpoint: Any) -> str | None:
    """The text of the config in a checkpoint, or None."""
    return next((part[key] for part, key in _places(checkpoint)), None)


def _places(checkpoint: Any) -> list[tuple[Any, str]]:
    """(dict, key) of each config that a checkpoint has at the places where MMEngine looks for one."""
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    hub = checkpoint.get('message_hub') if isinstance(checkpoint, Mapping) else None
    info = hub.get('runtime_info') if isinstance(hub, Mapping) else None
    return [
        (part, key) for part in (meta, info) if isinstance(part, dict) for key in KEYS if isinstance(part.get(key), str)
    ]

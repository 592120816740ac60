"""The config that a checkpoint carries: read as plain values, never run.

MMEngine writes the config of a run into its checkpoints as the text of a Python file, and runs that text when it
resumes, or when an inferencer is given weights alone.
"""

from __future__ import annotations

import ast
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any

KEYS = ('config', 'cfg')  # of the meta data, and the latter of the message hub
NAMING = ('type', 'constructor', 'collate_fn', 'worker_init_fn', 'runner_type', '_scope_')  # a class or a function
SCOPES = frozenset(['mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'mmcls'])  # of registries
RUN = ('_base_', 'env_variables')  # keys by which MMEngine reads other files, or changes the environment


ADVICE = (
    'Configs are Python and run what they contain: give the config file that the model was trained with, if you trust '
    'where it comes from'
)


class UnsafeConfigError(ValueError):
    """The config in a checkpoint is more than plain values."""


def read_embedded(text: str, name: str) -> dict[str, Any]:
    """The values of a config that a checkpoint carries; nothing in it is run, imported or read from elsewhere.

    Args:
        text: Assignments of numbers, strings, lists, tuples, dicts and ``dict(...)``, as ``Config.pretty_text`` is.
        name: The checkpoint's, for messages.

    Returns:
        The config as a dict. ``custom_imports`` is left out.

    Raises:
        UnsafeConfigError: The text does anything else, or names a class that is registered nowhere. Names the line.
    """
    where = f'{name}: the config in this checkpoint is not used, because using it could run code'
    values: dict[str, Any] = {}
    if '{{' in text:  # MMEngine puts something in its place before it reads the text as Python
        raise UnsafeConfigError(f'{where} (it holds a template, {{{{). {ADVICE}')
    try:
        for statement in ast.parse(text).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=key)], value=value):
                    values[key] = _value(value)
                case _:
                    raise _NotPlain(statement)
    except _NotPlain as fault:
        what = f'line {fault.node.lineno} is no plain value: {_shown(fault.node)}'
        raise UnsafeConfigError(f'{where} ({what}). {ADVICE}') from fault
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise UnsafeConfigError(f'{where} ({type(error).__name__}: {error}). {ADVICE}') from error
    for key in RUN:
        if key in values:
            raise UnsafeConfigError(f'{where} (it sets {key}). {ADVICE}')
    imports = values.pop('custom_imports', None) or {}
    modules = imports.get('imports', ()) if isinstance(imports, Mapping) else [imports]
    for module in [modules] if isinstance(modules, str) else modules:
        if module not in sys.modules:  # what this program has imported has run already
            raise UnsafeConfigError(f'{where} (it imports {module!r}). {ADVICE}')
    for kind in _named(values):
        if not _is_known(kind):
            raise UnsafeConfigError(f"{where} ({kind!r} is no class of MMSegmentation's registries). {ADVICE}")
    return values


class _NotPlain(Exception):
    """Leaves the expression at what is no plain value."""

    def __init__(self, node: Any):
        self.node = node


def _value(node: ast.expr) -> Any:
    """The value of an expression without names, calls (but ``dict(...)``) and operators (but a sign)."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)](map(_value, node.elts))
    if isinstance(node, ast.Dict):
        keys = [key for key in node.keys if key is not None]  # None: of **
        if len(keys) == len(node.values):
            return {_value(key): _value(value) for key, value in zip(keys, node.values, strict=True)}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        # dict(a=1), and dict({'a.b': 1}) for keys that are no names
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
    """Every name in a config by which MMEngine looks a class or a function up."""
    if isinstance(node, Mapping):
        yield from (node[key] for key in NAMING if isinstance(node.get(key), str))
        for value in node.values():
            yield from _named(value)
    elif isinstance(node, list | tuple | set):
        for value in node:
            yield from _named(value)


def _is_known(kind: str) -> bool:
    """Whether building this type cannot call just any function.

    MMEngine imports a name with dots as a path if no registry has it, so that ``type='os.system'`` is a call.
    """
    package, *path = kind.split('.')
    if not path:
        return True
    if package not in sys.modules:  # then no registry has a class of it
        return False
    if len(path) == 1 and package in SCOPES and not hasattr(sys.modules[package], path[0]):
        return True
    from mmengine.utils import get_object_from_string
    from torch import nn

    found = get_object_from_string(kind)
    return _is_registered(found) or package == 'torch' and isinstance(found, type) and issubclass(found, nn.Module)


def _is_registered(kind: Any) -> bool:
    """Whether something is in one of the registries of MMEngine, or in one of MMSegmentation below them."""
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
    """The checkpoint without configs that are more than plain values: MMEngine would run them.

    What is left out is said in the log.

    Args:
        checkpoint: What the file holds; changed in place.
        name: Its name.
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
    """The text of the config that a checkpoint carries, or None."""
    return next((part[key] for part, key in _places(checkpoint)), None)


def _places(checkpoint: Any) -> list[tuple[Any, str]]:
    """Where MMEngine looks for a config: (dict, key) of each that is there."""
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    hub = checkpoint.get('message_hub') if isinstance(checkpoint, Mapping) else None
    info = hub.get('runtime_info') if isinstance(hub, Mapping) else None
    return [
        (part, key) for part in (meta, info) if isinstance(part, dict) for key in KEYS if isinstance(part.get(key), str)
    ]

"""Reads config files and applies options of the command line; errors name the file, the line and the key."""

from __future__ import annotations

import difflib
import inspect
import os
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from ..paths import find_config

NEW = '+'  # before a key that the config does not have, as in Hydra
DELETE = '_delete_'
# keys that MMEngine and this package read although a config need not set them
ACCEPTED = frozenset(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'} | {
    'compile',
    'custom_imports',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
}
# and below these
ACCEPTED_BELOW = {
    'randomness': frozenset(inspect.signature(Runner.set_randomness).parameters) - {'self'},
    'auto_scale_lr': frozenset(['base_batch_size', 'enable']),
    'env_cfg': frozenset(['cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit']),
    'env_cfg.mp_cfg': frozenset(['mp_start_method', 'opencv_num_threads']),
    'env_cfg.dist_cfg': frozenset(['backend', 'timeout']),
}


def read_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file and write options into it.

    Args:
        path: The file, or one of the project's own, see :func:`~mmseg_invattn.paths.find_config`.
        options: See :func:`apply_options`.

    Raises:
        FileNotFoundError: The file, or a file that its ``_base_`` names, does not exist.
        ValueError: The file cannot be read as a config, or an option is refused.
    """
    file = find_config(path)
    try:
        cfg = Config.fromfile(file)
    except Exception as error:  # a config is a program, which can raise anything
        files = list(dict.fromkeys(_files(error.__traceback__))) or [str(file)]
        if isinstance(error, FileNotFoundError) and len(files) > 1 and not os.path.exists(files[-1]):
            raise FileNotFoundError(
                f'{files[-2]}: its _base_ names {files[-1]}, but there is no such file. Paths of bases are relative to '
                'the folder of the config'
            ) from error
        raise ValueError(_unreadable(error, files)) from error
    apply_options(cfg, options or {}, str(path))
    return cfg


def _files(trace: TracebackType | None) -> Iterator[str]:
    """The configs that MMEngine was reading when an error was raised, the innermost last."""
    while trace is not None:
        code, values = trace.tb_frame.f_code, trace.tb_frame.f_locals
        if code.co_name in ('_file2dict', '_is_lazy_import', '_parse_lazy_import') and values.get('filename'):
            yield str(values['filename'])
        trace = trace.tb_next


def _unreadable(error: Exception, files: list[str]) -> str:
    """What is wrong with a config, and where."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == files[-1]]
    line = getattr(error, 'lineno', None) or (lines[-1] if lines else None)
    reason = error.__cause__ if isinstance(error, ImportError) and error.__cause__ else error
    text = reason.msg if isinstance(reason, SyntaxError) else reason
    where = files[-1] + (f', line {line}' if line else '')
    return f'{where}: this config cannot be read: {type(reason).__name__}: {text}'


def apply_options(cfg: Config, options: Mapping[str, Any], name: str) -> None:
    """Write the options of ``--cfg-options`` into a config.

    A key must exist in the config, unless it begins with ``+``, or MMEngine's Runner knows it, or it lies below a dict
    that the same options replace by ``_delete_=True``. Numbers in a key are positions in a list.

    Args:
        cfg: The config, changed in place.
        options: Dotted keys and their values.
        name: Name of the config, for messages.

    Raises:
        ValueError: The config has no such key; the message names similar ones.
    """
    content, merged = cfg.to_dict(), {}
    replaced = tuple(key.removeprefix(NEW).removesuffix(DELETE) for key in options if key.endswith(f'.{DELETE}'))
    for key, value in options.items():
        path = key.removeprefix(NEW)
        if not key.startswith(NEW) and not path.startswith(replaced):
            _check(content, path, name)
        path, value = _whole_list(content | merged, path, value)
        merged[path] = value
    try:
        cfg.merge_from_dict(merged)
    except (TypeError, KeyError) as error:
        raise ValueError(f'--cfg-options {" ".join(options)}: this cannot be merged into {name}: {error}') from error


def _whole_list(content: dict, path: str, value: Any) -> tuple[str, Any]:
    """The whole list with a value changed at one position, because MMEngine merges only dicts into lists."""
    parent, _, last = path.rpartition('.')
    node = content.get(parent, value_at(content, parent))
    if not isinstance(node, list | tuple) or not last.isdigit() or int(last) >= len(node):
        return path, value
    changed = [value if place == int(last) else item for place, item in enumerate(node)]
    return _whole_list(content, parent, type(node)(changed))


def value_at(content: Any, path: str, missing: Any = None) -> Any:
    """The value at a dotted path, in which numbers are positions in a list; ``missing`` if there is none."""
    for part in path.split('.'):
        if isinstance(content, list | tuple):
            content = content[int(part)] if part.isdigit() and int(part) < len(content) else missing
        else:
            content = content.get(part, missing) if isinstance(content, dict) else missing
    return content


def _check(content: dict, path: str, name: str) -> None:
    """Refuse a path that does not exist in the config."""
    parts = path.split('.')
    node: Any = content
    for depth, part in enumerate(parts):
        here = '.'.join(parts[:depth])
        if isinstance(node, dict):
            known = ACCEPTED_BELOW.get(here, frozenset()) if here else ACCEPTED
            if part in node:
                node = node[part]
            elif '.'.join(parts[: depth + 1]) in ACCEPTED_BELOW:
                node = {}
            elif part in known or (part == DELETE and here):
                return
            else:
                raise ValueError(_refusal(content, parts, depth, sorted({*node, *known}), name))
        elif not isinstance(node, list | tuple):
            raise ValueError(f'--cfg-options {path}: in {name}, {here} is {node!r}, which has no entries')
        elif part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            raise ValueError(
                f'--cfg-options {path}: in {name}, {here} is a list of {len(node)}, whose positions are 0 to '
                f'{len(node) - 1}, but {part} is not one of them. To set the whole list, write {here}="[...]"'
            )


def _refusal(content: dict, parts: list[str], depth: int, siblings: list[str], name: str) -> str:
    """The message about a key that the config does not have."""
    path, here = '.'.join(parts), '.'.join(parts[:depth])
    paths = list(_paths(content))
    near = ['.'.join([*parts[:depth], like]) for like in difflib.get_close_matches(parts[depth], siblings, 3)]
    longer = ['.'.join([like, *parts[depth + 1 :]]) for like in near]
    near = [long if long in paths else like for like, long in zip(near, longer, strict=True)]
    near += [other for other in paths if other.rsplit('.', 1)[-1] == parts[-1]]
    said = (
        f'Did you mean {" or ".join(list(dict.fromkeys(near))[:3])}?' if near else f'There are: {", ".join(siblings)}.'
    )
    return (
        f'--cfg-options {path}: {name} has no {parts[depth]}{f" in {here}" if here else ""}. {said} '
        f'To add a new key, put a plus before it: {NEW}{path}=...'
    )


def _paths(node: Any, prefix: str = '') -> Iterator[str]:
    """Every path in a config, the short ones first."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    below = [(f'{prefix}{key}', value) for key, value in items]
    yield from (path for path, _ in below)
    for path, value in below:
        yield from _paths(value, f'{path}.')

"""Checks that a config has all parts that belong together, and no misspelt names at its top level."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

from mmengine.hooks import Hook
from mmengine.runner import Runner

from .signatures import SLIP, near
from .tree import ConfigError, shown

TOGETHER = (
    ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    ('val_dataloader', 'val_cfg', 'val_evaluator'),
    ('test_dataloader', 'test_cfg', 'test_evaluator'),
)
DICTS = 'model train_dataloader val_dataloader test_dataloader train_cfg val_cfg test_cfg optim_wrapper default_hooks'
KINDS = dict.fromkeys(DICTS.split(), Mapping) | {'custom_hooks': list | tuple, 'param_scheduler': list | tuple | dict}
POSITIVE = ('max_iters', 'max_epochs', 'val_interval')


def check_sections(config: Mapping) -> None:
    """Check the top level of a config.

    Raises:
        ConfigError: A part is missing or is not a dict, or a name is probably misspelt, so that nothing would read it.
    """
    known = [name for name in inspect.signature(Runner.__init__).parameters if name not in ('self', 'cfg')]
    for name in config:
        meant = [one for one in near(name, known, SLIP) if config.get(one) is None]
        if name not in known and meant:
            raise ConfigError(
                f'{name} is set, but nothing reads an entry of that name: {meant[0]!r} is probably meant, which is not '
                'set'
            )
    for name, kind in KINDS.items():
        value = config.get(name)
        if value is not None and not isinstance(value, kind):
            words = 'a dict' if kind is Mapping else 'a list of dicts'
            comma = ' (a comma after the closing bracket makes a tuple)' * isinstance(value, tuple)
            raise ConfigError(f'{name} is {shown(value)}, but must be {words}{comma}')
    for path, hook in _hooks(config):
        if hook is not None and not isinstance(hook, Mapping | Hook):
            raise ConfigError(f'{path} is {shown(hook)}, but must be a dict(type=...)')
    if config.get('model') is None:
        raise ConfigError("model is missing: a config needs model = dict(type='EncoderDecoder', ...)")
    for names in TOGETHER:
        missing = [name for name in names if config.get(name) is None]
        if missing and len(missing) < len(names):
            there = [name for name in names if name not in missing]
            raise ConfigError(
                f'{" and ".join(missing)} {"is" if len(missing) == 1 else "are"} missing or None, but '
                f'{" and ".join(there)} {"is" if len(there) == 1 else "are"} set: {", ".join(names)} belong together, '
                'so set all of them or none'
            )
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = config.get(name)
        for entry in ('dataset', 'sampler') if loader is not None else ():
            if loader.get(entry) is None and not (entry == 'sampler' and loader.get('batch_sampler') is not None):
                raise ConfigError(f'{name}.{entry} is missing: a dataloader needs {entry}=dict(type=...)')


def _hooks(config: Mapping) -> Iterator[tuple[str, object]]:
    for name, hook in (config.get('default_hooks') or {}).items():
        yield f'default_hooks.{name}', hook
    for index, hook in enumerate(config.get('custom_hooks') or ()):
        yield f'custom_hooks.{index}', hook


def check_counts(config: Mapping) -> None:
    """Check the length of the training.

    Raises:
        ConfigError: A number of iterations is below 1.
    """
    loop = config.get('train_cfg') or {}
    for name in POSITIVE:
        value = loop.get(name)
        if isinstance(value, int | float) and value < 1:
            raise ConfigError(f'train_cfg.{name} is {value}, but must be at least 1')

"""Adds the place in the config to errors that are raised while something is built from a part of it."""

from __future__ import annotations

import linecache
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from .signatures import signature_of
from .tree import ConfigError, path_of, path_of_name, shown

# functions that build something, and the variable that holds its config
BUILDERS = {
    'build_from_cfg': 'cfg',
    'build_dataloader': 'dataloader',
    'build_norm_layer': 'cfg',
    'build_conv_layer': 'cfg',
    'build_activation_layer': 'cfg',
}
PLAIN = (int, float, str, list, tuple, type(None))
WRONG_CALL = re.compile(r'\(\) (missing|got|takes) ')
NOT_REGISTERED = re.compile(r'is not in the .* registry\. ')
WRONG_KIND = re.compile(r'object (of type|is not|has no|cannot be)|not supported between|must be .* not ')
# Only these errors are translated, which constructors raise for wrong arguments; other errors explain themselves.
TRANSLATED = (
    TypeError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    RuntimeError,
    ZeroDivisionError,
    NotImplementedError,
)


@contextmanager
def explained(config: Mapping) -> Iterator[None]:
    """Replace an error from building a dict of the config by one with its path and the arguments that the class takes.

    Other errors, such as those of a training iteration, are not changed.

    Raises:
        ConfigError: In place of such an error.
    """
    try:
        yield
    except TRANSLATED as error:
        place = _place(config, error) if type(error) in TRANSLATED else None
        if place is None:
            raise
        path, piece, target = place
        raise ConfigError(f'{path}{_title(piece)}: {what(error)}{_more(error, piece, target)}') from error


def _place(config: Mapping, error: Exception) -> tuple[str, Mapping, object] | None:
    """Path, dict and class of the innermost part of the config that was being built."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        piece = frame.f_locals.get(BUILDERS.get(frame.f_code.co_name, ''))
        if isinstance(piece, Mapping):
            path = path_of(config, piece) or path_of_name(config, piece.get('type'))
            if path is not None:
                return path, piece, frame.f_locals.get('obj_cls')
    return None


def what(error: Exception) -> str:
    """The message of an error; for an assertion without a message, its condition."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    if NOT_REGISTERED.search(text):  # after it MMEngine gives a link to its registries
        return text.split('. ')[0]
    if isinstance(error, KeyError) and ' ' not in text:
        return f'{text!r} is missing'
    if text:
        return text
    frame, number = list(traceback.walk_tb(error.__traceback__))[-1]
    rule = linecache.getline(frame.f_code.co_filename, number).strip().removeprefix('assert ').rstrip(', \\')
    names = dict.fromkeys(re.findall(r'\b[a-z_]+\b', rule))
    here = frame.f_locals
    values = {name: here[name] for name in names if name in here and isinstance(here[name], PLAIN)}
    having = ', '.join(f'{name}={value!r}' for name, value in values.items() if len(repr(value)) <= 60)
    return f'the rule `{rule}` does not hold{having and f" for {having}"}'


def _title(piece: Mapping) -> str:
    kind = piece.get('type')
    return f' ({kind if isinstance(kind, str) else kind.__name__})' if kind else ''


def _more(error: Exception, piece: Mapping, target: object) -> str:
    """The arguments that the class takes if the call was wrong, and those that it was given if it failed inside."""
    if target is not None and isinstance(error, TypeError) and WRONG_CALL.search(str(error)):
        return f'. {target.__name__} takes {", ".join(sorted(signature_of(target).arguments))}'
    if target is not None and (isinstance(error, AttributeError | IndexError) or WRONG_KIND.search(str(error))):
        given = [f'{key}={shown(value)}' for key, value in piece.items() if key != 'type' and isinstance(value, PLAIN)]
        return f'. It is given {", ".join(given) or "no arguments"}'
    return ''

"""Finds the arguments that a class takes, those of its bases included, and which one a misspelt name meant."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Collection
from inspect import Parameter
from typing import NamedTuple

TEXT = re.compile(r'\b(str|Path|Any|PathLike|Literal|Callable)\b')
NUMBER = re.compile(r'\b(int|float)\b')
OPTIONAL = re.compile(r'\b(None|Optional|Any)\b')
LIKE = 0.75  # difflib's ratio from which on a similar name may have been meant
SLIP = 0.85  # the ratio from which on a name is surely misspelt


class Signature(NamedTuple):
    """Arguments by name; ``open``: the class may take others too, which are not known here."""

    arguments: dict[str, Parameter]
    open: bool


def signature_of(target: Callable) -> Signature:
    """The keyword arguments of a class or function.

    A class whose ``__init__`` takes ``**kwargs`` hands them to the next ``__init__``, as heads and backbones do.
    """
    if not inspect.isclass(target):
        return Signature(*_named(target))
    arguments: dict[str, Parameter] = {}
    for base in inspect.getmro(target):
        if '__init__' in vars(base):
            if base is object or base.__module__.startswith('torch.nn.'):
                return Signature(arguments, bool(arguments))
            named, more = _named(base.__init__)
            arguments = named | arguments
            if not more:
                return Signature(arguments, False)
    return Signature(arguments, True)


def _named(function: Callable) -> tuple[dict[str, Parameter], bool]:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # compiled code may have no signature
        return {}, True
    variable = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD, Parameter.POSITIONAL_ONLY)
    named = {name: one for name, one in parameters.items() if one.kind not in variable and name != 'self'}
    return named, any(one.kind is Parameter.VAR_KEYWORD for one in parameters.values())


def near(name: str, names: Collection[str], like: float = LIKE) -> list[str]:
    """The names that were probably meant, most likely first."""
    return difflib.get_close_matches(name, [one for one in names if one != name], 3, like)


def did_you_mean(name: str, names: Collection[str]) -> str:
    """``; did you mean 'x' or 'y'?``, or nothing."""
    meant = near(name, sorted(set(names)))
    return f'; did you mean {" or ".join(map(repr, meant))}?' if meant else ''


def wrong_kind(value: object, parameter: Parameter | None) -> str | None:
    """What is wrong with a value for an argument, judged by its annotation and its default; or None.

    Only plain cases are judged: a string, None, a list or a dict in place of a number, and None for what is required.
    """
    kind, default = '', None
    if parameter is not None and parameter.annotation is not Parameter.empty:
        kind = re.sub(r"<class '([\w.]+)'>", r'\1', str(parameter.annotation))
    if parameter is not None and parameter.default is not Parameter.empty:
        default = parameter.default
    if value is None and parameter is not None and parameter.default is Parameter.empty and not OPTIONAL.search(kind):
        return 'but the argument is required'
    if TEXT.search(kind) or isinstance(default, str):
        return None
    number = bool(NUMBER.search(kind)) or isinstance(default, int | float) and not isinstance(default, bool)
    inside = value if isinstance(value, list | tuple) else [value]
    for text in inside:
        if isinstance(text, str) and (number or not kind and _reads_as_number(text)):
            fix = f'write {text} without the quotation marks' if _reads_as_number(text) else 'give a number'
            where = '' if text is value else f', in which {text!r} is'
            return f'{where or "which is"} a string, but it must be a number: {fix}'.removeprefix(', ')
    single = kind in ('int', 'float') and (parameter.default is Parameter.empty or default is not None)
    if single and (value is None or isinstance(value, list | tuple | dict)):
        return 'but it must be a single number' + (f'; its default is {default}' if default is not None else '')
    return None


def _reads_as_number(text: str) -> bool:
    return bool(re.fullmatch(r'\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*', text))

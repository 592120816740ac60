"""Output of subcommands: ``--out`` and ``--overwrite``, and the check before any work that no file is replaced."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Iterable
from pathlib import Path

from ..wording import counted


def add_output_arguments(
    parser: ArgumentParser, what: str, default: str | None = None, *, folder: bool = False, required: bool = False
) -> None:
    """Adds ``--out`` and ``--overwrite``.

    Args:
        parser: The parser to extend.
        what: Help of ``--out``: what is written there.
        default: Default path.
        folder: Whether the path is that of a folder.
        required: Whether ``--out`` has to be given.
    """
    parser.add_argument(
        '--out',
        type=Path,
        default=None if default is None else Path(default),
        required=required,
        metavar='DIR' if folder else 'FILE',
        help=what,
    )
    add_overwrite_argument(parser)


def add_overwrite_argument(parser: ArgumentParser) -> None:
    """Adds ``--overwrite``, for :func:`refuse_existing`."""
    parser.add_argument('--overwrite', action='store_true', help='replace existing files')


def refuse_existing(paths: Iterable[str | Path], overwrite: bool, other: str = 'another --out') -> None:
    """Raises an error, before any work is done, if files would be replaced.

    Args:
        paths: Paths that will be written. A folder counts as existing if it is not empty.
        overwrite: Whether the user allows it.
        other: What the user can choose instead.

    Raises:
        FileExistsError: Some of the paths exist. The message names the first.
    """
    there = [] if overwrite else [_shown(path) for path in paths if _holds_something(path)]
    if there:
        more = f' and {counted(len(there) - 1, "more file")}' if len(there) > 1 else ''
        raise FileExistsError(f'{there[0]}{more} would be replaced: add --overwrite to allow that, or choose {other}')


def _shown(path: str | Path) -> str:
    return f'the content of {path}' if os.path.isdir(path) else str(path)


def _holds_something(path: str | Path) -> bool:
    return bool(os.listdir(path)) if os.path.isdir(path) else os.path.lexists(path)

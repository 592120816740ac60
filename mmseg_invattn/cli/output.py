"""What a subcommand writes: ``--out`` and ``--overwrite``, and the refusal to replace files before any work is done."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Iterable
from pathlib import Path

from ..wording import counted


def add_output_arguments(
    parser: ArgumentParser, what: str, default: str | None = None, *, folder: bool = False, required: bool = False
) -> None:
    """Add ``--out`` and ``--overwrite``.

    Args:
        parser: Gets them.
        what: The subcommand writes there.
        default: Path.
        folder: It is the path of a folder.
        required: It has to be given.
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
    """Add ``--overwrite``, for :func:`refuse_existing`."""
    parser.add_argument('--overwrite', action='store_true', help='replace what is there already')


def refuse_existing(paths: Iterable[str | Path], overwrite: bool, other: str = 'another --out') -> None:
    """Refuse to write over files, before any work is done.

    Args:
        paths: What is going to be written. A folder among them counts where something lies in it.
        overwrite: The user has asked for it.
        other: What else the user can choose.

    Raises:
        FileExistsError: Some of them are there; names the first.
    """
    there = [] if overwrite else [_shown(path) for path in paths if _holds_something(path)]
    if there:
        more = f' and {counted(len(there) - 1, "more file")}' if len(there) > 1 else ''
        raise FileExistsError(
            f'{there[0]}{more} would be replaced, which is done on request only: add --overwrite, or choose {other}'
        )


def _shown(path: str | Path) -> str:
    return f'what lies in {path}' if os.path.isdir(path) else str(path)


def _holds_something(path: str | Path) -> bool:
    return bool(os.listdir(path)) if os.path.isdir(path) else os.path.lexists(path)

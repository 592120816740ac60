"""Finds the configs: next to the package in a checkout, inside it (``.mim``) in an installation."""

from __future__ import annotations

import difflib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent  # root of a checkout; the folder to put on PYTHONPATH


def config_folder() -> Path:
    """The folder ``configs``.

    Raises:
        FileNotFoundError: there are no configs.
    """
    for folder in (ROOT / 'configs', PACKAGE / '.mim' / 'configs'):
        if (folder / '_base_').is_dir():
            return folder
    raise FileNotFoundError(
        f'there are no configs next to {PACKAGE} or in its folder .mim: the installation is incomplete; install '
        'mmseg_invattn again'
    )


def find_config(name: str | Path) -> Path:
    """The path of a config that is given as a path, or as the name of one of the project's configs below ``configs``.

    Raises:
        FileNotFoundError: there is no such config.
    """
    path = Path(name)
    if path.is_file():
        return path
    own = config_folder()
    inside = Path(*path.parts[1:]) if path.parts[:1] == ('configs',) else path
    if (own / inside).is_file():
        return own / inside
    names = [str(file.relative_to(own)) for file in own.rglob('*.py')]
    near = difflib.get_close_matches(str(inside), names, 1)
    raise FileNotFoundError(
        f'{name}: there is no such config file in {Path.cwd()}, nor one of that name in {own}'
        + (f'; did you mean {near[0]}?' if near else '')
    )

"""Where the configs lie: beside the package in a checkout, inside of it (``.mim``) in an installation."""

from __future__ import annotations

import difflib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent  # of a checkout, and what PYTHONPATH needs


def config_folder() -> Path:
    """The folder ``configs``.

    Raises:
        FileNotFoundError: neither a checkout nor an installation with configs.
    """
    for folder in (ROOT / 'configs', PACKAGE / '.mim' / 'configs'):
        if (folder / '_base_').is_dir():
            return folder
    raise FileNotFoundError(f'{PACKAGE} has no configs beside it and none in .mim: the installation is not whole')


def find_config(name: str | Path) -> Path:
    """The config file of that name: a path, or one of the project's own, named below ``configs``.

    Raises:
        FileNotFoundError: there is none.
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
        f'{name}: there is no such config file here ({Path.cwd()}), and none of that name in {own}'
        + (f'; did you mean {near[0]}?' if near else '')
    )

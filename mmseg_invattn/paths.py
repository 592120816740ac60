"""Where the configs lie: beside the package in a checkout, inside of it (``.mim``) in an installation."""

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

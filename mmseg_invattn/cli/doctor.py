"""List what is installed, which versions are tested, what is wrong, and the commands that fix it.

The exit status is 1 if something that is needed is missing or broken.
"""

from ..doctor import main as examine
from .parser import CommandParser


def main(arguments: list[str] | None = None) -> int:
    CommandParser(__doc__, '').parse_args(arguments)
    return examine()

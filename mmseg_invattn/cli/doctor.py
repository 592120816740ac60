"""Say what is installed, which versions were tested, what is wrong, and the line that mends it.

The exit status is 1 where something that is needed is missing or broken.
"""

from ..doctor import main as examine
from .parser import CommandParser


def main(arguments: list[str] | None = None) -> int:
    CommandParser(__doc__, '').parse_args(arguments)
    return examine()

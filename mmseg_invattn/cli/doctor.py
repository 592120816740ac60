"""What is installed, what is wrong with it, and the line that mends it."""

from ..doctor import main

__all__ = ['main']

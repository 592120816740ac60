"""The parser of every subcommand, as the subcommand builds it."""

from __future__ import annotations

from importlib import import_module
from unittest import mock

from mmseg_invattn.cli.parser import CommandParser


class _CaughtError(Exception):
    """Leaves the subcommand where its parser is complete."""


def parser_of(command: str) -> CommandParser:
    """The parser of ``mmseg-invattn COMMAND``, before it reads any argument."""
    caught = []

    def catch(self: CommandParser, *args: object) -> None:
        caught.append(self)
        raise _CaughtError

    module = import_module(f'mmseg_invattn.cli.{command.replace(" ", ".").replace("-", "_")}')
    with mock.patch('sys.argv', [f'mmseg-invattn {command}']), mock.patch.object(CommandParser, 'parse_args', catch):
        try:
            module.main([])
        except _CaughtError:
            pass
    (parser,) = caught
    return parser

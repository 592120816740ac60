"""The page of the command line, made of the parsers that the commands use."""

import html
import re
import sys
from importlib import import_module
from pathlib import Path
from unittest import mock

from mkdocs.structure.files import File

PAGE = 'reference/command_line.md'
TOP = """# Command line

`mmseg-invattn SUBCOMMAND` and the file of that name under `tools/` are the same program. [Tools](tools.md) says what
holds for all of them; `mmseg-invattn SUBCOMMAND --help` prints what this page says. Each of them takes `-h`, `--help`
for that, and `--debug`, which shows where in the code an error came up.
"""
ALL_TAKE = ('help', 'debug')


class _CompleteError(Exception):
    """Leaves a subcommand where its parser is complete."""


def on_files(files, config):
    files.append(File.generated(config, PAGE, content=page()))
    return files


def page() -> str:
    """Every subcommand: what it does, its arguments, examples."""
    root = str(Path(__file__).parents[2])
    with mock.patch('sys.path', [root, *sys.path]):
        from mmseg_invattn.cli.main import COMMANDS

        return '\n\n'.join([TOP, *(section(command) for command in COMMANDS)]) + '\n'


def section(command: str) -> str:
    parser = parser_of(command)
    formatter = parser.formatter_class(parser.prog)
    usage = parser.format_usage().removeprefix('usage: ').replace('[-h] [--debug] ', '').replace('[-h] [--debug]', '')
    usage = re.sub(r'\n {7}', '\n', usage).strip()
    examples = re.sub(r'^ +', '', (parser.epilog % dict(prog=parser.prog)).partition('\n')[2], flags=re.MULTILINE)
    arguments = '\n'.join(
        f'- `{formatter._format_action_invocation(action)}` – {plain(formatter._expand_help(action))}'
        for action in parser._actions
        if action.dest not in ALL_TAKE
    )
    parts = [f'## {command}', prose(parser.description), f'```text\n{usage}\n```', arguments]
    parts.append(f'```shell\n{examples}\n```')
    return '\n\n'.join(filter(None, parts))


def parser_of(command: str):
    """The parser of ``mmseg-invattn COMMAND``, before it reads any argument."""
    from mmseg_invattn.cli.parser import CommandParser

    parsers = []

    def catch(parser: CommandParser, *_: object) -> None:
        parsers.append(parser)
        raise _CompleteError

    module = import_module(f'mmseg_invattn.cli.{command.replace(" ", ".").replace("-", "_")}')
    argv, environ = mock.patch('sys.argv', [f'mmseg-invattn {command}']), mock.patch.dict('os.environ', COLUMNS='88')
    with argv, environ, mock.patch.object(CommandParser, 'parse_args', catch):
        try:
            module.main([])
        except _CompleteError:
            return parsers[0]
    raise RuntimeError(f'mmseg-invattn {command} has read no arguments')


def prose(text: str) -> str:
    """A description as Markdown: paragraphs, and those with indented lines as they are."""
    parts = text.replace('%(prog)s', 'mmseg-invattn').strip().split('\n\n')
    return '\n\n'.join(f'```text\n{part}\n```' if '\n  ' in part else plain(part) for part in parts)


def plain(text: str) -> str:
    """Text in which nothing is Markdown but code: what stands in back ticks, and options."""
    text = re.sub(r'(?<![\w`-])--[a-z][a-z-]*', r'`\g<0>`', text)
    parts = re.split(r'(`+[^`]+`+)', text)
    return ''.join(
        part if index % 2 else re.sub(r'([*_\[\]\\])', r'\\\1', html.escape(part, quote=False))
        for index, part in enumerate(parts)
    )

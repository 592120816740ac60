"""The argument parser of all subcommands, with one style of help."""

from __future__ import annotations

import sys
import textwrap
from argparse import SUPPRESS, Action, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


class HelpFormatter(RawDescriptionHelpFormatter):
    """Adds choices and default to the help of every option, and wraps paragraphs that have no indented line."""

    def _get_help_string(self, action: Action) -> str:
        text, default, given = (action.help or '').partition('; default: ')
        if action.choices:
            text += f': {", ".join(map(str, action.choices))}'
        if action.required and action.option_strings:
            text += '; required'
        if action.default not in (None, SUPPRESS) and action.option_strings and action.nargs != 0:
            values = action.default if isinstance(action.default, list | tuple) else [action.default]
            default, given = '; default: ', ' '.join(map(str, values))
        return (text + default + given).replace('%', '%%')

    def _format_args(self, action: Action, default_metavar: str) -> str:
        if action.nargs == '+':
            return f'{self._metavar_formatter(action, default_metavar)(1)[0]} ...'
        return super()._format_args(action, default_metavar)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip().split('\n\n')
        return '\n\n'.join(part if '\n  ' in part else textwrap.fill(part, width) for part in paragraphs)


class CommandParser(ArgumentParser):
    """Arguments of a subcommand.

    Args:
        description: What the subcommand does. Paragraphs are wrapped; paragraphs with indented lines are unchanged.
        examples: Command lines, without the name of the command.
    """

    def __init__(self, description: str, *examples: str):
        super().__init__(
            prog=sys.argv[0],
            description=description,
            epilog='\n'.join(
                [f'example{"s" * (len(examples) > 1)}:', *(f'  %(prog)s {example}'.rstrip() for example in examples)]
            ),
            formatter_class=HelpFormatter,
        )
        self.add_argument('--debug', action='store_true', help='show where in the code an error occurred')

    def add_argument(self, *names: str, **settings: Any) -> Action:
        """As in ``argparse``, but an argument with choices has a short name in capitals as its placeholder."""
        if 'choices' in settings:
            settings.setdefault('metavar', names[-1].lstrip('-').replace('-', '_').upper())
        return super().add_argument(*names, **settings)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """As in ``argparse``; where a config may be left out, wherever options stand between the other arguments."""
        optional = [action for action in self._actions if not action.option_strings and action.nargs == '?']
        if not optional:
            return super().parse_args(args, namespace)
        found: Any = self.parse_intermixed_args(args, namespace)
        if getattr(found, 'config', '') is None and str(found.checkpoint).endswith('.py'):
            self.error(f'{found.checkpoint} is a config, and no checkpoint comes after it')
        return found

    def check_suffix(self, out: Path | None, suffixes: Iterable[str], what: str) -> None:
        """Shows the usage and exits if ``--out`` has another suffix."""
        if out and out.suffix not in suffixes:
            self.error(f'--out {out}: the name of {what} must end in {", ".join(suffixes)}')

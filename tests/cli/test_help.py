"""The help of every subcommand, in one style: description, options with default and unit, an example."""

import argparse
import subprocess
import sys

import pytest
from helpers.checkout import ROOT
from helpers.commands import LINES, parser_of

from mmseg_invattn.cli.main import COMMANDS

FLAGS = (argparse._StoreTrueAction, argparse._HelpAction)
# every help, and what follows a wrong argument, in one process
EVERY_HELP = """
import sys
from mmseg_invattn.cli.main import COMMANDS, GROUPS, main

def status(*line):
    try:
        return main([*line])
    except SystemExit as end:
        return end.code

for command in ['', *GROUPS, *COMMANDS]:
    assert status(*command.split(), '--help') == 0, command
    assert status(*command.split(), '--no-such-option') == 2, command
    heavy = [name for name in ('torch', 'mmcv', 'matplotlib', 'mmengine.runner', 'mmseg.models') if name in sys.modules]
    if heavy:
        sys.exit(f'the help of {command!r} imports {", ".join(heavy)}')
"""


def test_there_is_a_line_for_every_command():
    assert set(LINES) == set(COMMANDS)


@pytest.mark.parametrize('command', COMMANDS)
def test_one_style(command, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    parser = parser_of(command)
    text = parser.format_help()
    assert text.startswith(f'usage: mmseg-invattn {command} [-h] [--debug]')
    assert all(len(line) <= 80 for line in text.splitlines()), text
    examples = text[text.index('\nexample') :].splitlines()[2:]
    assert examples and all(line.startswith(f'  mmseg-invattn {command}') for line in examples)
    assert parser.description.strip()[0].isupper() and 'python tools/' not in text
    for action in parser._actions:
        assert action.help, action
        if isinstance(action, FLAGS):
            continue
        metavars = action.metavar if isinstance(action.metavar, tuple) else (action.metavar,)
        assert all(name and name == name.upper() for name in metavars), action
        said = parser.formatter_class(parser.prog)._get_help_string(action)
        if action.option_strings:
            assert ('; required' if action.required else 'default: ') in said, action
        if action.default and action.option_strings:
            shown = action.default if isinstance(action.default, list | tuple) else [action.default]
            assert said.endswith(f'; default: {" ".join(map(str, shown))}'), action
        assert all(str(choice) in said for choice in action.choices or ()), action


@pytest.mark.parametrize('name', ['overwrite', 'cfg_options', 'trust_checkpoint', 'work_dir', 'debug'])
def test_an_option_of_one_name_means_one_thing(name):
    found = [action for command in COMMANDS for action in parser_of(command)._actions if action.dest == name]
    assert len(found) > 2 and len({(type(action), action.help) for action in found}) == 1


def test_help_is_quick():
    """It imports nothing that takes seconds."""
    done = subprocess.run([sys.executable, '-c', EVERY_HELP], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr.splitlines()[-1]

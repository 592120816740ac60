"""The help of every subcommand, in one style: description, options with default and unit, an example."""

import argparse

import pytest
from helpers.commands import LINES, parser_of

from mmseg_invattn.cli.main import COMMANDS

FLAGS = (argparse._StoreTrueAction, argparse._HelpAction)


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

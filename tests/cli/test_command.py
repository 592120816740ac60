"""The command mmseg-invattn: its subcommands and their names."""

import runpy
import subprocess
import sys

import pytest
from helpers.checkout import ROOT

from mmseg_invattn.cli.main import COMMANDS, GROUPS, SUBCOMMANDS, main

TOOLS = list((ROOT / 'tools').rglob('*.py'))


def test_the_command_itself(capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(f'\n  {name} ' in listed for name in SUBCOMMANDS)
    assert main(['--version']) == 0 and 'mmseg-invattn 0' in capsys.readouterr().out
    assert main(['trian']) == 2 and "no subcommand 'trian', did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize('group', GROUPS)
def test_a_group_of_subcommands(group, capsys):
    for arguments in ([group], [group, '--help']):
        assert main(arguments) == 0
        listed = capsys.readouterr().out
        assert f'usage: mmseg-invattn {group} SUBCOMMAND' in listed and all(
            f'\n  {n} ' in listed for n in GROUPS[group]
        )
    assert main([group, 'camvit']) == 2 and f'mmseg-invattn {group}: there is no subcommand' in capsys.readouterr().err


def test_every_tool_is_a_subcommand():
    called = [name for path in TOOLS for name in COMMANDS if f"run('{name}')" in path.read_text()]
    assert sorted(called) == sorted(set(COMMANDS) - {'doctor'}) and len(called) == len(TOOLS)
    for path in TOOLS:  # three lines and how to find the package
        assert len(path.read_text().splitlines()) <= 16, path


def test_as_a_module():
    line = [sys.executable, '-m', 'mmseg_invattn.cli', '--version']
    done = subprocess.run(line, cwd=ROOT, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, '') and done.stdout.startswith('mmseg-invattn 0')


@pytest.mark.slow
def test_what_it_imports_prints_nothing(tmp_path):
    line = [sys.executable, '-m', 'mmseg_invattn.cli', 'print-config', tmp_path / 'none.py']
    done = subprocess.run(line, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 2 and 'no such config file' in done.stderr and 'Traceback' not in done.stderr
    assert 'OneDL' not in done.stdout + done.stderr and done.stdout == ''


def test_as_a_tool(tmp_path, monkeypatch, capsys):
    tool = ROOT / 'tools' / 'analysis' / 'print_config.py'
    monkeypatch.setattr(sys, 'argv', [str(tool), str(tmp_path / 'none.py')])
    monkeypatch.setattr(sys, 'path', sys.path[:])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(tool), run_name='__main__')
    assert end.value.code == 2 and 'no such config file' in capsys.readouterr().err

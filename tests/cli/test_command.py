"""The command mmseg-invattn: what there is, and how a mistake of its user ends."""

import subprocess
import sys

import pytest
from helpers.checkout import ROOT

from mmseg_invattn.cli import main as command
from mmseg_invattn.cli.main import SUBCOMMANDS, main

TOOLS = [path for path in (ROOT / 'tools').rglob('*.py') if 'mmseg_invattn.cli.main' in path.read_text()]


@pytest.mark.parametrize('name', SUBCOMMANDS)
def test_every_subcommand_has_help(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['mmseg-invattn'])
    if name == 'doctor':  # takes no argument
        assert main([name]) == 0 and 'Everything that is needed' in capsys.readouterr().out
        return
    with pytest.raises(SystemExit) as left:
        main([name, '--help'])
    assert left.value.code == 0 and f'usage: mmseg-invattn {name}' in capsys.readouterr().out


def test_the_command_itself(capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(f'\n  {name} ' in listed for name in SUBCOMMANDS)
    assert main(['--version']) == 0 and 'mmseg-invattn 0' in capsys.readouterr().out
    assert main(['trian']) == 2 and "no subcommand 'trian', did you mean 'train'?" in capsys.readouterr().err


def test_every_tool_is_a_subcommand():
    assert len(TOOLS) == len(SUBCOMMANDS) - 1  # the doctor is `python -m mmseg_invattn.doctor`
    for path in TOOLS:
        assert any(f"run('{name}')" in path.read_text() for name in SUBCOMMANDS), path


def test_a_mistake_is_one_paragraph(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['mmseg-invattn'])
    arguments = ['print-config', str(tmp_path / 'none.py'), '--out', str(tmp_path / 'out.py')]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert 'none.py: there is no such config file' in said and 'Traceback' not in said
    with pytest.raises(FileNotFoundError):
        main([*arguments, '--debug'])


@pytest.mark.parametrize(
    'error, words',
    [
        (ValueError('steps=0 is no number from 1'), 'ValueError: steps=0 is no number from 1'),
        (KeyError('InvXHead is not in the mmseg::model registry'), 'InvXHead is not in the mmseg::model registry'),
        (ModuleNotFoundError("No module named 'mmengine'", name='mmengine'), 'mmengine is not installed'),
        (OSError(28, 'No space left on device'), 'No space left on device'),
    ],
)
def test_mistakes(error, words, capsys, monkeypatch):
    assert raising(error, monkeypatch) == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError('boom'),
        KeyError('key'),
        OSError(5, 'I/O'),
        ModuleNotFoundError("No module named 'typo'", name='typo'),
    ],
)
def test_what_nobody_expected_keeps_its_traceback(error, monkeypatch):
    with pytest.raises(type(error)):
        raising(error, monkeypatch)


def test_an_interruption_says_how_to_go_on(capsys, monkeypatch):
    assert raising(KeyboardInterrupt(), monkeypatch) == 130 and '--resume' in capsys.readouterr().err


def raising(error: BaseException, monkeypatch) -> int:
    """The exit status of a training that ends with the error."""

    class Module:
        @staticmethod
        def main():
            raise error

    monkeypatch.setattr(sys, 'argv', ['mmseg-invattn'])
    monkeypatch.setattr(command, 'import_module', lambda *_: Module)
    return main(['train'])


def test_as_a_module_and_as_a_tool(tmp_path):
    for line in (['-m', 'mmseg_invattn.cli', 'print-config'], [ROOT / 'tools' / 'analysis' / 'print_config.py']):
        done = subprocess.run([sys.executable, *line, tmp_path / 'none.py'], cwd=ROOT, text=True, capture_output=True)
        assert done.returncode == 2 and 'no such config file' in done.stderr and 'Traceback' not in done.stderr

"""No subcommand replaces an existing file unasked, and each says so before it starts its work."""

from pathlib import Path

import pytest
from helpers.commands import LINES, parser_of, run_command, write_command_case
from helpers.runtime_case import write_case

from mmseg_invattn.cli.main import COMMANDS

# what each of them writes; None: --out is that file
WRITTEN = {
    'train': 'iter_6.pth',
    'test': '0.png',
    'predict': 'image_overlay.png',
    'invert': 'inverse.json',
    'explore': None,
    'compare': 'tiny/seed_0/run.json',
    'reconstruct': 'tiny/none/iter_1.pth',
    'sample': None,
    'interpolate': None,
    'export': None,
    'complexity': None,
    'benchmark': 'benchmark.md',
    'browse': '0000.png',
    'print-config': None,
    'convert camvid': 'meta.json',
    'convert context-shapes': 'meta.json',
    'analyze attention-vs-conv': 'heads.json',
    'analyze confusion-matrix': 'confusion_matrix.csv',
    'analyze flow-curves': None,
    'analyze logs': None,
    'analyze plot-gain': None,
}
# publish names its file after the content; demo refuses only files that it has not written itself
ELSEWHERE = {'publish', 'demo'}


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    return write_command_case(tmp_path_factory.mktemp('case'))


def test_all_that_write_are_here():
    options = {command: {action.dest for action in parser_of(command)._actions} for command in COMMANDS}
    writing = {command for command, names in options.items() if 'out' in names} | {'train'}
    assert writing == {command for command, names in options.items() if 'overwrite' in names}
    assert writing == set(WRITTEN) | ELSEWHERE


@pytest.mark.parametrize('command', WRITTEN)
def test_files_stay(command, case, tmp_path, capsys):
    line = LINES[command].format(out=tmp_path / 'out', **case).split()
    out = Path(line[line.index('--work-dir' if command == 'train' else '--out') + 1])
    name = WRITTEN[command]
    file = out / name if name else out
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('{"fingerprint": ""}')
    assert run_command(command, *line) == 2
    said = capsys.readouterr()
    assert '--overwrite' in said.err and str(out) in said.err and 'Traceback' not in said.err
    if command != 'compare':
        assert 'would be replaced: add --overwrite to allow that, or choose another' in said.err
    assert said.out == '' and file.read_text() == '{"fingerprint": ""}'
    assert [path for path in tmp_path.rglob('*') if path.is_file()] == [file]


@pytest.mark.slow
def test_what_was_trained_stays(tmp_path, capsys):
    config, work = write_case(tmp_path), tmp_path / 'work'
    short = ('train_cfg.max_iters=2',)
    assert run_command('train', config, '--work-dir', work, options=short) == 0
    before = (work / 'iter_2.pth').read_bytes()
    assert run_command('train', config, '--work-dir', work, options=short) == 2
    assert 'iter_2.pth would be replaced' in capsys.readouterr().err
    assert (work / 'iter_2.pth').read_bytes() == before
    assert run_command('train', config, '--work-dir', work, '--overwrite', options=('randomness.seed=1', *short)) == 0
    assert (work / 'iter_2.pth').read_bytes() != before
    assert run_command('train', config, '--work-dir', work, '--resume', options=('train_cfg.max_iters=4',)) == 0
    assert (work / 'iter_4.pth').is_file()


def test_painted_predictions_stay(case, tmp_path, capsys):
    (tmp_path / 'show').mkdir()
    (tmp_path / 'show' / 'x.png').touch()
    line = LINES['test'].format(out=tmp_path / 'out', **case).split()
    assert run_command('test', *line, '--show-dir', tmp_path / 'show') == 2
    assert 'the content of' in capsys.readouterr().err

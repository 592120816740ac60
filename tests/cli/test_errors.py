"""A mistake of the user ends with a message, a bug with a traceback."""

import linecache
import os
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import pytest
import torch
from helpers.checkout import ROOT
from helpers.commands import run_command, write_command_case
from helpers.runtime_case import tool_environment
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmseg_invattn.cli import main as command
from mmseg_invattn.cli.errors import explanation, is_mistake
from mmseg_invattn.layers import CertifiedAttention2d
from mmseg_invattn.paths import PACKAGE


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    return write_command_case(tmp_path_factory.mktemp('case'))


def caught(function, *arguments):
    with pytest.raises(Exception) as raised:
        function(*arguments)
    return raised.value


def in_package(source, name='imagined.py'):
    """A function ``fault`` from source that stands in a file of the package."""
    path = str(PACKAGE / name)
    linecache.cache[path] = (len(source), None, source.splitlines(True), path)
    scope = {}
    exec(compile(source, path, 'exec'), scope)
    return scope['fault']


class Broken:
    """A data set whose image cannot be loaded."""

    def __init__(self, fault):
        self.fault = fault

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.fault()


WORDED = in_package("def fault():\n    raise ValueError(\n        'steps=0 is no number from 1')\n")
BUG = in_package('def fault():\n    return None + 1\n', 'bug.py')


def test_a_sentence_of_this_package_is_a_mistake():
    for error, words in (
        (caught(WORDED), 'steps=0 is no number from 1'),
        (caught(lambda: CertifiedAttention2d(8, mode='gausian')), 'gausian'),
    ):
        assert is_mistake(error) and words in explanation(error) and 'ValueError' not in explanation(error)


@pytest.mark.parametrize(
    'function',
    [BUG, lambda: int('x'), lambda: {}['key'], lambda: torch.zeros(2) @ torch.zeros(3), lambda: [][0]],
    ids=['TypeError', 'ValueError', 'KeyError', 'RuntimeError', 'IndexError'],
)
def test_a_bug_is_none(function):
    assert not is_mistake(caught(function))


@pytest.mark.parametrize('workers', [0, 1])
def test_the_same_in_a_worker(workers):
    error = caught(lambda: list(DataLoader(Broken(WORDED), num_workers=workers)))
    said = explanation(error)
    assert is_mistake(error) and said == 'steps=0 is no number from 1' + ' (in DataLoader worker 0)' * workers
    assert not is_mistake(caught(lambda: list(DataLoader(Broken(BUG), num_workers=workers))))


def test_what_the_config_says_is_built():
    registry = Registry('thing')

    @registry.register_module()
    class Thing:
        def __init__(self, size):
            assert size > 0, f'size={size} is not positive'

    for config, words in (
        (dict(type='Thing', sise=1), 'sise'),
        (dict(type='Thing', size='a'), "TypeError: '>' not supported"),
        (dict(type='Thing', size=0), 'size=0 is not positive'),
        (dict(type='Thin'), 'Thin is not in the'),
    ):
        error = caught(registry.build, config)
        assert is_mistake(error) and words in explanation(error)
    error = caught(lambda: Runner.from_cfg(Config(dict(model={}, work_dir='/tmp', train_cfg=dict(max_iters=1)))))
    assert is_mistake(error) and 'train_dataloader' in explanation(error)


@pytest.mark.parametrize(
    'error, words',
    [
        (FileNotFoundError(2, 'No such file or directory', 'a.txt'), 'a.txt: No such file or directory'),
        (OSError(28, 'No space left on device'), 'No space left on device'),
        (OSError(98, 'Address already in use'), 'Address already in use'),
        (torch.OutOfMemoryError('CUDA out of memory. Tried'), 'make the batches or the images smaller'),
        (ModuleNotFoundError("No module named 'mmengine'", name='mmengine'), 'pip install onedl-mmengine'),
    ],
)
def test_what_the_system_refuses(error, words):
    assert is_mistake(error) and words in explanation(error)
    assert not is_mistake(OSError(5, 'I/O')) and not is_mistake(ModuleNotFoundError("No module 'typo'", name='typo'))


def test_one_paragraph_or_a_traceback(capsys, monkeypatch, tmp_path):
    assert run_command('print-config', tmp_path / 'none.py') == 2
    said = capsys.readouterr().err
    assert said.startswith('mmseg-invattn print-config: ') and said.count('\n') == 1
    assert 'none.py: there is no such config file' in said and said.endswith(
        '(--debug shows where in the code this occurred)\n'
    )
    with pytest.raises(FileNotFoundError):
        run_command('print-config', tmp_path / 'none.py', '--debug')

    class Module:
        main = staticmethod(BUG)

    monkeypatch.setattr(command, 'import_module', lambda *_: Module)
    with pytest.raises(TypeError):
        run_command('train')


CONFIGS = {
    'syntax': ('x = 1\nmodel = dict(\n  type=\n', r'broken.py, line [23]: this config cannot be read: SyntaxError'),
    'name': ('x = 1\ny = nothing + 1\n', r"broken.py, line 2: .*NameError: name 'nothing' is not defined"),
    'base': ("_base_ = './gone.py'\n", 'broken.py: its _base_ names .*gone.py, but there is no such file'),
    'deep': ("_base_ = './broken_base.py'\n", r'broken_base.py, line 1: .*ZeroDivisionError'),
    'import': ("custom_imports = dict(imports=['no_such_module'])\n", "no_such_module"),
    'data': ("_base_ = './tiny.py'\n{split}_dataloader = dict(dataset=dict(data_root='nowhere'))\n", 'nowhere'),
}  # fmt: skip


@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.parametrize('tool', ['train', 'test', 'predict', 'export'])
def test_a_config_that_cannot_be_read(tool, name, case, tmp_path, capsys):
    if name == 'data' and tool in ('predict', 'export'):
        pytest.skip('it takes no data')
    text, words = CONFIGS[name]
    folder = Path(case['config']).parent
    (folder / 'broken_base.py').write_text('x = 1 / 0\n')
    (folder / 'broken.py').write_text(text.format(split=tool) if name == 'data' else text)
    more = dict(
        train=('--work-dir', tmp_path), test=(case['weights'], '--work-dir', tmp_path),
        predict=(case['weights'], case['image'], '--out', tmp_path),
        export=(case['weights'], '--format', 'torch_export', '--out', tmp_path / 'x.pt2'),
    )[tool]  # fmt: skip
    assert run_command(tool, folder / 'broken.py', *more) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert re.search(words, said[-1]), said


@pytest.mark.parametrize('tool', ['test', 'predict', 'export', 'train'])
@pytest.mark.parametrize('kind', ['truncated', 'empty', 'text', 'folder'])
def test_a_checkpoint_that_cannot_be_read(tool, kind, case, tmp_path, capsys):
    path, whole = tmp_path / 'weights.pth', Path(case['weights']).read_bytes()
    if kind == 'folder':
        path.mkdir()
    else:
        path.write_bytes(dict(truncated=whole[: len(whole) // 2], empty=b'', text=b'not found\n')[kind])
    more, options = dict(
        train=(('--work-dir', tmp_path / 'work'), (f'load_from={path}', 'train_cfg.max_iters=1')),
        test=((path, '--work-dir', tmp_path / 'work'), ('',)),
        predict=((path, case['image'], '--out', tmp_path / 'out'), ()),
        export=((path, '--format', 'torch_export', '--out', tmp_path / 'x.pt2'), ()),
    )[tool]
    assert run_command(tool, case['config'], *more, options=options) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert 'weights.pth' in said[-1] and said[-1].startswith(f'mmseg-invattn {tool}: '), said


def test_a_broken_image_in_a_worker_is_named_last(tmp_path, capsys):
    case = write_command_case(tmp_path)
    for path in sorted((tmp_path / 'data' / 'images').iterdir())[1:]:  # the first is looked at before the training
        path.write_bytes(path.read_bytes()[:600])
    options = ('train_dataloader.num_workers=2',)
    assert run_command('train', case['config'], '--work-dir', tmp_path / 'work', options=options) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith('mmseg-invattn train: failed to load image: ') and '(in DataLoader worker' in last
    assert cv2.imread(last.split()[6]) is None and Path(last.split()[6]).parent == tmp_path / 'data' / 'images'


def test_no_space_is_one_paragraph(case, capsys):
    if not os.path.exists('/dev/full'):
        pytest.skip('no device that is always full')
    assert run_command('analyze plot-gain', '--out', '/dev/full', '--overwrite') == 2
    assert 'No space left on device' in capsys.readouterr().err


def test_environment_and_config_go_to_the_log_file(case, tmp_path, capsys):
    short = ('train_cfg.max_iters=1',)
    assert run_command('train', case['config'], '--work-dir', tmp_path, options=short) == 0
    said = capsys.readouterr().out
    (log,) = tmp_path.glob('*/*.log')
    for words in ('System environment', 'default_hooks=dict(', 'before_train_iter'):
        assert words not in said and words in log.read_text()
    assert f'training {Path(case["config"]).name} on ' in said and str(tmp_path) in said and str(log) in said
    assert '8 images of the train data, every file is there' in said and 'Iter(train) [1/1]' in said
    assert len(said.splitlines()) < 40


@pytest.mark.slow
def test_the_cause_in_another_process_stands_last(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(
        textwrap.dedent("""
        import os, sys, time
        from mmseg_invattn.cli.main import run
        if os.environ['RANK'] == '1':
            sys.exit(run('print-config', ['gone.py']))
        time.sleep(60)
        """)
    )
    launcher = [sys.executable, '-m', 'mmseg_invattn.cli.distributed', '--standalone', '--nproc_per_node=2', script]
    done = subprocess.run(launcher, env=tool_environment(), cwd=ROOT, text=True, capture_output=True)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and 'process 1 failed: ' in last and 'gone.py: there is no such config file' in last
    assert 'Traceback' not in done.stderr


@pytest.mark.slow
def test_a_port_in_use_is_one_paragraph():
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
        launcher = [sys.executable, '-m', 'mmseg_invattn.cli.distributed', '--nproc_per_node=1', 'script.py']
        launcher[3:3] = ['--master_addr=127.0.0.1', f'--master_port={port}']
        done = subprocess.run(launcher, env=tool_environment(), cwd=ROOT, text=True, capture_output=True)
    said = done.stderr.strip().splitlines()[-1]
    assert (
        done.returncode == 2 and str(port) in said and 'Choose a free port' in said and 'Traceback' not in done.stderr
    )

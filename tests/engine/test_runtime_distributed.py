"""Two processes on CPUs do what one process with the doubled batch does."""

import json
import os
import socket
import subprocess
import textwrap

import pytest
import torch
from helpers.checkout import ROOT
from helpers.runtime_case import run_tool, tool_environment, write_case
from helpers.two_processes import in_two_processes

# Writes the loss of the whole batch, that is the mean over the ranks, and how many samples of it were whose
LOSS_WRITER = """
import json
import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

@HOOKS.register_module(force=True)
class LossWriter(Hook):
    def __init__(self, path):
        self.path = path

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = outputs['loss'].detach().double()
        all_reduce(loss, op='mean')
        if get_rank() == 0:
            with open(self.path, 'a') as file:
                file.write(json.dumps(loss.item()) + chr(10))
"""


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    """Config with a loss writer and without dropout, whose draws differ from rank to rank; folder of its runs."""
    folder = tmp_path_factory.mktemp('distributed')
    base = write_case(folder, dropout=0)
    (folder / 'loss_writer.py').write_text(LOSS_WRITER)
    config = folder / 'config.py'
    config.write_text(
        textwrap.dedent(f"""
        _base_ = '{base}'
        custom_imports = dict(imports=['mmseg_invattn', 'loss_writer'], allow_failed_imports=False)
        custom_hooks = [dict(type='LossWriter', path='losses.txt')]
        train_cfg = dict(max_iters=4)
        default_hooks = dict(checkpoint=dict(interval=4))
    """)
    )
    return config, folder


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def launch(case, cwd, script, *arguments):
    cwd.mkdir(exist_ok=True)
    environment = tool_environment(PORT=free_port())
    environment['PYTHONPATH'] = str(case[1])  # without this package: the tools find the one that they belong to
    done = subprocess.run(
        [ROOT / 'tools' / script, *map(str, arguments)], env=environment, cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def _rank(rank, config, folder, port):
    """A process as the launcher starts it."""
    os.chdir(folder)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    run_tool('train', config, '--launcher', 'pytorch', '--work-dir', 'work')


@pytest.fixture(scope='module')
def forked(case):
    folder = case[1] / 'forked'
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(case[1])
        in_two_processes(_rank, case[0], folder, free_port())
    return folder


@pytest.fixture(scope='module')
def launched(case):
    launch(case, case[1] / 'launched', 'dist_train.sh', case[0], 2, '--work-dir', 'work')
    return case[1] / 'launched'


@pytest.mark.parametrize('start', ['forked', pytest.param('launched', marks=pytest.mark.slow)])
def test_two_processes_train_like_one_with_the_doubled_batch(case, start, tmp_path, monkeypatch, request):
    two_processes = request.getfixturevalue(start)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(case[1])
    run_tool('train', case[0], '--work-dir', tmp_path / 'work', options=('train_dataloader.batch_size=4',))
    one, two = (
        [json.loads(line) for line in (folder / 'losses.txt').read_text().splitlines()]
        for folder in (tmp_path, two_processes)
    )
    assert len(one) == 4 and len(set(one)) == 4
    assert two == pytest.approx(one, rel=1e-5)
    weights = [
        torch.load(folder / 'work' / 'iter_4.pth', weights_only=True)['state_dict']
        for folder in (tmp_path, two_processes)
    ]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_two_processes_evaluate_like_one(case, launched, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(case[1])
    checkpoint = launched / 'work' / 'iter_4.pth'
    # 3 images for 2 processes: one is evaluated twice and must count once
    launch(
        case,
        tmp_path / 'two',
        'dist_test.sh',
        case[0],
        checkpoint,
        2,
        '--work-dir',
        tmp_path / 'two',
        '--cfg-options',
        'test_dataloader.dataset.indices=3',
    )
    run_tool(
        'test', case[0], checkpoint, '--work-dir', tmp_path / 'one', options=('test_dataloader.dataset.indices=3',)
    )
    one, two = (json.loads(next((tmp_path / name).glob('*/*.json')).read_text()) for name in ('one', 'two'))
    for name in ('mIoU', 'aAcc', 'mAcc'):
        assert one[name] == two[name]


def test_scripts_say_how_they_are_used():
    for script in ('dist_train.sh', 'dist_test.sh'):
        done = subprocess.run([ROOT / 'tools' / script, 'config.py'], capture_output=True, text=True)
        assert done.returncode == 2 and f'{script} CONFIG' in done.stderr

"""SIGTERM and SIGUSR1: all ranks write a checkpoint of the current iteration, and the run resumes exactly."""

import multiprocessing
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from helpers.commands import run_command
from helpers.runtime_case import run_tool, write_case
from mmengine.hooks import CheckpointHook
from mmengine.runner import IterBasedTrainLoop, ValLoop
from torch import distributed as torch_dist

from mmseg_invattn.engine.hooks import StopHook
from mmseg_invattn.stop_request import PATIENCE, StopRequest, Terminated, stop_request

OPTIONS = ('train_cfg.val_interval=3', 'default_hooks.checkpoint.interval=4')


@pytest.fixture(scope='module')
def whole_run(tmp_path_factory):
    """Config and work directory of an uninterrupted run of 6 iterations, validated after 3 and 6."""
    folder = tmp_path_factory.mktemp('whole')
    config = folder / 'averaged.py'
    config.write_text(f"_base_ = '{write_case(folder)}'\ncustom_hooks = [dict(type='EMAHook')]\n")
    run_tool('train', config, '--work-dir', folder / 'work', options=OPTIONS)
    return config, folder / 'work'


def assert_goes_on(config, work, reference, *options):
    run_tool('train', config, '--work-dir', work, '--resume', options=(*OPTIONS, *options))
    one, other = (torch.load(folder / 'iter_6.pth', weights_only=True) for folder in (work, reference))
    for part in ('state_dict', 'ema_state_dict'):
        assert all(torch.equal(tensor, other[part][name]) for name, tensor in one[part].items())
    logs = [
        {name: value['log'].tolist() for name, value in run['message_hub']['log_scalars'].items() if 'time' not in name}
        for run in (one, other)
    ]
    assert logs[0] == logs[1] and len(logs[0]['val/mIoU']) == 2


def test_in_a_validation(whole_run, tmp_path, capsys, monkeypatch):
    """No checkpoint is written at iteration 3 otherwise, and the weights of the model are the averaged ones then."""
    run_iter = ValLoop.run_iter

    def signalled(loop, number, batch):
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        run_iter(loop, number, batch)

    with monkeypatch.context() as patch:
        patch.setattr(ValLoop, 'run_iter', signalled)
        assert run_command('train', whole_run[0], '--work-dir', tmp_path, options=OPTIONS) == 143
    assert f'To continue from {tmp_path / "iter_3.pth"}: ' in capsys.readouterr().err
    assert_goes_on(whole_run[0], tmp_path, whole_run[1])


def test_between_iterations_where_the_workers_are_gone(whole_run, tmp_path, capsys, monkeypatch):
    """A signal to the whole group ends the workers of the data loader as well."""
    run_iter = IterBasedTrainLoop.run_iter

    def signalled(loop, batch):
        run_iter(loop, batch)
        if loop.iter == 2:
            stop_request.note(signal.SIGUSR1)
            raise RuntimeError('DataLoader worker (pid 1) exited unexpectedly')

    with monkeypatch.context() as patch:
        patch.setattr(IterBasedTrainLoop, 'run_iter', signalled)
        assert run_command('train', whole_run[0], '--work-dir', tmp_path, options=OPTIONS) == 138
    assert f'To continue from {tmp_path / "iter_2.pth"}: ' in capsys.readouterr().err
    assert_goes_on(whole_run[0], tmp_path, whole_run[1])


def test_accumulated_gradients_are_applied_first(whole_run, tmp_path, monkeypatch):
    run_iter = IterBasedTrainLoop.run_iter

    def signalled(loop, batch):
        if loop.iter == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        run_iter(loop, batch)

    options = ('+optim_wrapper.accumulative_counts=2', 'default_hooks.checkpoint.interval=6')
    with monkeypatch.context() as patch:
        patch.setattr(IterBasedTrainLoop, 'run_iter', signalled)
        assert run_command('train', whole_run[0], '--work-dir', tmp_path, options=options) == 143
    assert [path.name for path in tmp_path.glob('*.pth')] == ['iter_4.pth']


def _rank(number, folder, asked, results):
    """A training without model whose process gets a signal in one of its iterations."""
    torch_dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=number, world_size=2)
    saved = []
    checkpoint = CheckpointHook(by_epoch=False)
    checkpoint.out_dir, checkpoint.last_ckpt = '', None
    checkpoint.file_backend = SimpleNamespace(join_path=lambda *parts: parts[-1])
    checkpoint._save_checkpoint_with_step = lambda runner, step, meta: saved.append(step)
    runner = SimpleNamespace(
        world_size=2, iter=0, epoch=0, hooks=[checkpoint], train_loop=None, optim_wrapper=None,
        logger=SimpleNamespace(info=lambda text: None), val_dataloader=[0] * (3 + number),
    )  # fmt: skip
    hook = StopHook()
    hook.before_train(runner)
    try:
        for iteration in range(20):
            runner.iter = iteration
            if (number, iteration) == asked:
                stop_request.note(signal.SIGTERM)
            hook.before_train_iter(runner, iteration)
            hook.after_train_iter(runner, iteration)
            if iteration == 5:
                runner.iter = 6
                hook.before_val_epoch(runner)
                for batch in range(len(runner.val_dataloader)):  # one more on the second rank
                    if (number, f'val {batch}') == asked:
                        stop_request.note(signal.SIGTERM)
                    hook.after_val_iter(runner, batch)
        hook.after_train(runner)
        results.put((number, 'end', saved))
    except Terminated:
        results.put((number, 'stopped', saved))


@pytest.mark.parametrize(
    ('asked', 'step'), [((0, 8), 10), ((1, 8), 10), ((1, 'val 1'), 6), ((1, 'val 3'), 8), ((0, 19), None)]
)
def test_all_ranks_stop_at_one_iteration(tmp_path, asked, step):
    context = multiprocessing.get_context('fork')
    results = context.SimpleQueue()
    ranks = [context.Process(target=_rank, args=(number, tmp_path, asked, results)) for number in range(2)]
    for rank in ranks:
        rank.start()
    found = sorted(results.get() for _ in ranks)
    for rank in ranks:
        rank.join(10)
    expected = ('end', []) if step is None else ('stopped', [step])
    assert [entry[1:] for entry in found] == [expected, expected]


def test_signals_end_a_process_at_once_where_nobody_looks():
    request = StopRequest()
    assert not request.note(signal.SIGTERM)
    request.arm()
    assert request.note(signal.SIGTERM) and request.note(signal.SIGTERM)  # of the launcher and of the scheduler
    request._when -= PATIENCE
    assert not request.note(signal.SIGTERM)

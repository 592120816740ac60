"""A run depends only on (config, seed): resumed or killed, it ends with the weights of an uninterrupted run."""

import multiprocessing
import os
import shutil
import signal
from unittest import mock

import pytest
import torch
from helpers.runtime_case import run_tool, stop_workers, write_case

from mmseg_invattn.engine import atomic_backend
from mmseg_invattn.engine.checkpoints import DamagedCheckpointError, UnsafeCheckpointError
from mmseg_invattn.engine.resume import find_resume_checkpoint


@pytest.fixture(scope='module')
def whole_run(tmp_path_factory):
    """Config and work directory of an uninterrupted run of 6 iterations, a checkpoint every 2."""
    folder = tmp_path_factory.mktemp('whole')
    config = write_case(folder)
    run_tool('train', config, '--work-dir', folder / 'work')
    return config, folder / 'work'


def interrupted(whole_run, folder, *names):
    """Work directory with some of the uninterrupted run's checkpoints, as left by a run that was stopped there."""
    work_dir = folder / 'work'
    work_dir.mkdir()
    for age, name in enumerate(reversed(names)):
        shutil.copy(whole_run[1] / name, work_dir)
        os.utime(work_dir / name, (1e9 - age, 1e9 - age))
    (work_dir / 'last_checkpoint').write_text(str(work_dir / names[-1]))
    return work_dir


def assert_same_run(work_dir, reference):
    one, other = (torch.load(folder / 'iter_6.pth', weights_only=True) for folder in (work_dir, reference))
    assert one['meta']['iter'] == other['meta']['iter'] == 6
    assert one['state_dict'].keys() == other['state_dict'].keys()
    for name, tensor in one['state_dict'].items():
        assert torch.equal(tensor, other['state_dict'][name]), name
    for key, state in one['optimizer']['state'].items():
        assert all(torch.equal(value, other['optimizer']['state'][key][name]) for name, value in state.items())
    history = [checkpoint['message_hub']['log_scalars']['train/loss']['log'] for checkpoint in (one, other)]
    assert len(history[0]) == 6 and torch.equal(*history)


def logs(work_dir):
    return ''.join(path.read_text() for path in work_dir.glob('*/*.log'))


@pytest.mark.parametrize('workers', [0, 2])
def test_resumed_run_ends_with_the_same_weights(whole_run, tmp_path, workers):
    work_dir = interrupted(whole_run, tmp_path, 'iter_2.pth')
    # validation, which draws random numbers of its own, falls into the resumed part of this run only
    run_tool(
        'train',
        whole_run[0],
        '--work-dir',
        work_dir,
        '--resume',
        options=(f'train_dataloader.num_workers={workers}', 'train_cfg.val_interval=4'),
    )
    if workers:
        stop_workers()
    assert_same_run(work_dir, whole_run[1])
    assert 'resumed epoch: 0, iter: 2' in logs(work_dir)
    assert 'Iter(train) [1/6]' not in logs(work_dir)


def test_the_seed_of_the_checkpoint_reaches_the_sampler(whole_run, tmp_path):
    work_dir = interrupted(whole_run, tmp_path, 'iter_4.pth')
    config = tmp_path / 'seed_5.py'
    config.write_text(f"_base_ = '{whole_run[0]}'\nrandomness = dict(seed=5)\n")
    run_tool('train', config, '--work-dir', work_dir, '--resume')
    assert_same_run(work_dir, whole_run[1])


def test_another_seed_is_another_run(whole_run, tmp_path):
    run_tool('train', whole_run[0], '--work-dir', tmp_path, options=('randomness.seed=1', 'train_cfg.max_iters=2'))
    one, other = (
        torch.load(folder / 'iter_2.pth', weights_only=True)['state_dict'] for folder in (tmp_path, whole_run[1])
    )
    assert not torch.equal(one['decode_head.conv_seg.weight'], other['decode_head.conv_seg.weight'])


def _killed_in_its_second_checkpoint(config, work_dir):
    written, write = [], atomic_backend._write

    def write_half(file, content):
        if len(content) > 1000:  # a checkpoint, not last_checkpoint
            written.append(file.name)
        if len(written) == 2:
            file.write(content[: len(content) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        write(file, content)

    with mock.patch.object(atomic_backend, '_write', write_half):
        run_tool('train', config, '--work-dir', work_dir)


def test_kill_in_the_middle_of_a_checkpoint_loses_nothing(whole_run, tmp_path):
    work_dir = tmp_path / 'work'
    run = multiprocessing.get_context('fork').Process(
        target=_killed_in_its_second_checkpoint, args=(whole_run[0], work_dir)
    )
    run.start()
    run.join()
    assert run.exitcode == -signal.SIGKILL
    assert sorted(path.name for path in work_dir.glob('[!.]*.pth')) == ['iter_2.pth']
    assert (work_dir / 'last_checkpoint').read_text() == str(work_dir / 'iter_2.pth')
    (half,) = work_dir.glob('.iter_4.pth.*.partial.pth')
    assert 0 < half.stat().st_size < (work_dir / 'iter_2.pth').stat().st_size
    torch.load(work_dir / 'iter_2.pth', weights_only=True)

    run_tool('train', whole_run[0], '--work-dir', work_dir, '--resume')
    assert_same_run(work_dir, whole_run[1])
    assert not list(work_dir.glob('.*.partial*'))


def test_truncated_last_checkpoint_falls_back(whole_run, tmp_path):
    work_dir = interrupted(whole_run, tmp_path, 'iter_2.pth', 'iter_4.pth')
    with open(work_dir / 'iter_4.pth', 'r+b') as file:
        file.truncate(5000)
    with mock.patch('mmseg_invattn.cli.train.print_log') as log:
        run_tool('train', whole_run[0], '--work-dir', work_dir, '--resume')
    assert f'Resuming from {work_dir / "iter_2.pth"}' in str(log.mock_calls)
    assert_same_run(work_dir, whole_run[1])
    assert 'resumed epoch: 0, iter: 2' in logs(work_dir)


def test_resume_without_a_checkpoint_starts_from_scratch(whole_run, tmp_path):
    with mock.patch('mmseg_invattn.cli.train.print_log') as log:
        run_tool('train', whole_run[0], '--work-dir', tmp_path, '--resume', options=('train_cfg.max_iters=2',))
    assert 'starting from scratch' in str(log.mock_calls)
    one, other = (
        torch.load(folder / 'iter_2.pth', weights_only=True)['message_hub']['log_scalars']['train/loss']
        for folder in (tmp_path, whole_run[1])
    )
    assert torch.equal(one['log'], other['log'])


@pytest.mark.parametrize('record', [None, '', 'gone.pth'])
def test_last_checkpoint_missing_empty_or_pointing_to_a_file_that_is_gone(whole_run, tmp_path, record):
    work_dir = interrupted(whole_run, tmp_path, 'iter_2.pth', 'iter_4.pth')
    (work_dir / 'last_checkpoint').unlink()
    if record is not None:
        (work_dir / 'last_checkpoint').write_text(record and str(work_dir / record))
    (work_dir / 'best_mIoU_iter_6.pth').write_bytes((work_dir / 'iter_2.pth').read_bytes())
    assert find_resume_checkpoint(work_dir) == str(work_dir / 'iter_4.pth')


def test_last_checkpoint_of_a_folder_that_was_moved(whole_run, tmp_path):
    work_dir = interrupted(whole_run, tmp_path, 'iter_2.pth', 'iter_4.pth')
    (work_dir / 'last_checkpoint').write_text('/elsewhere/iter_2.pth')
    assert find_resume_checkpoint(work_dir) == str(work_dir / 'iter_2.pth')


def test_checkpoints_of_which_none_is_readable_are_an_error(whole_run, tmp_path):
    work_dir = interrupted(whole_run, tmp_path, 'iter_2.pth', 'iter_4.pth')
    (work_dir / 'iter_2.pth').write_bytes(b'')
    (work_dir / 'iter_4.pth').write_bytes((work_dir / 'iter_4.pth').read_bytes()[:-100])
    with pytest.raises(DamagedCheckpointError, match=r'iter_4\.pth.*truncated.*iter_2\.pth.*not a checkpoint'):
        run_tool('train', whole_run[0], '--work-dir', work_dir, '--resume')


def test_weights_alone_cannot_be_resumed(whole_run, tmp_path):
    work_dir = interrupted(whole_run, tmp_path, 'iter_4.pth')
    checkpoint = torch.load(work_dir / 'iter_4.pth', weights_only=True)
    torch.save(dict(state_dict=checkpoint['state_dict'], meta=checkpoint['meta']), work_dir / 'iter_4.pth')
    with pytest.raises(DamagedCheckpointError, match='lacks message_hub'):
        find_resume_checkpoint(work_dir)


def test_unsafe_checkpoint_is_refused_by_resume_not_skipped(whole_run, tmp_path):
    work_dir = interrupted(whole_run, tmp_path, 'iter_2.pth', 'iter_4.pth')
    checkpoint = torch.load(work_dir / 'iter_4.pth', weights_only=True)
    torch.save(dict(checkpoint, extra=os.getcwd), work_dir / 'iter_4.pth')
    with pytest.raises(UnsafeCheckpointError, match='trust-checkpoint'):
        run_tool('train', whole_run[0], '--work-dir', work_dir, '--resume')
    run_tool('train', whole_run[0], '--work-dir', work_dir, '--resume', '--trust-checkpoint')
    assert_same_run(work_dir, whole_run[1])


def test_other_place_and_name_of_checkpoints(whole_run, tmp_path):
    hook = dict(out_dir=str(tmp_path / 'out'), filename_tmpl='step-{}.pt')
    (tmp_path / 'out' / 'work').mkdir(parents=True)
    shutil.copy(whole_run[1] / 'iter_4.pth', tmp_path / 'out' / 'work' / 'step-4.pt')
    assert find_resume_checkpoint(tmp_path / 'work', hook) == str(tmp_path / 'out' / 'work' / 'step-4.pt')
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'last_checkpoint').write_text('s3://bucket/iter_9.pth')
    assert find_resume_checkpoint(tmp_path / 'work', hook) == 's3://bucket/iter_9.pth'

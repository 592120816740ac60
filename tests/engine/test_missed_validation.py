"""A validation that a killed run has missed is made up on resume, with its metric and the best checkpoint."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers.runtime_case import run_tool, write_case
from mmengine.runner import ValLoop

from mmseg_invattn.engine.hooks import AtomicCheckpointHook

OPTIONS = ('train_cfg.val_interval=2', '+default_hooks.checkpoint.save_best=mIoU', 'train_cfg.max_iters=4')


class KilledError(BaseException):
    """Stands for a kill: nothing cleans up after it."""


@pytest.fixture(scope='module')
def whole_run(tmp_path_factory):
    """Config and work directory of an uninterrupted run of 4 iterations, a checkpoint and a validation every 2."""
    folder = tmp_path_factory.mktemp('whole')
    config = write_case(folder)
    run_tool('train', config, '--work-dir', folder / 'work', options=OPTIONS)
    return config, folder / 'work'


def checkpoints(work):
    """The checkpoints with what a run goes on from; paths and times are those of each run."""
    found = {}
    for path in sorted(work.glob('*.pth')):
        content = torch.load(path, weights_only=True)
        scalars = {
            key: value['log'].tolist()
            for key, value in content['message_hub']['log_scalars'].items()
            if 'time' not in key
        }
        info = content['message_hub']['runtime_info']
        best = Path(info.get('best_ckpt') or '').name, info.get('best_score')
        found[path.name] = content['meta']['iter'], scalars, best, content['state_dict']
    return found


def metrics(work):
    """The logged metrics of every validation; the last ones if a validation was logged twice."""
    lines = [line for path in sorted(work.glob('*/vis_data/scalars.json')) for line in path.read_text().splitlines()]
    return {entry['step']: entry['mIoU'] for entry in map(json.loads, lines) if 'mIoU' in entry}


def assert_same(work, reference):
    one, other = checkpoints(work), checkpoints(reference)
    assert one.keys() == other.keys() and any(name.startswith('best') for name in one)
    for name, (iteration, scalars, best, weights) in one.items():
        assert (iteration, scalars, best) == other[name][:3], name
        assert all(torch.equal(tensor, other[name][3][key]) for key, tensor in weights.items()), name
    assert metrics(work) == metrics(reference) and len(metrics(work)) == 2


@pytest.mark.parametrize('validation', [1, 2])
@pytest.mark.parametrize('moment', ['before', 'best', 'saved'])
def test_killed_around_a_validation(whole_run, tmp_path, monkeypatch, moment, validation):
    """Killed before the validation, before the best checkpoint is noted, or before the previous one is deleted."""
    work, times = tmp_path / 'work', []

    def last_time():
        times.append(1)
        return len(times) == validation

    with monkeypatch.context() as patch:
        if moment == 'before':
            run = ValLoop.run
            patch.setattr(ValLoop, 'run', lambda loop: (_ for _ in ()).throw(KilledError) if last_time() else run(loop))
        elif moment == 'best':
            save = AtomicCheckpointHook._save_checkpoint_with_step

            def save_again(hook, runner, step, meta):
                if runner.iter == step and last_time():  # after a validation
                    raise KilledError
                save(hook, runner, step, meta)

            patch.setattr(AtomicCheckpointHook, '_save_checkpoint_with_step', save_again)
        else:
            after = AtomicCheckpointHook._save_best_checkpoint

            def save_best(hook, runner, found):
                with monkeypatch.context() as inner:
                    if last_time():
                        inner.setattr(hook, '_remove', lambda path: (_ for _ in ()).throw(KilledError))
                        after(hook, runner, found)
                        raise KilledError
                    after(hook, runner, found)

            patch.setattr(AtomicCheckpointHook, '_save_best_checkpoint', save_best)
        with pytest.raises(KilledError):
            run_tool('train', whole_run[0], '--work-dir', work, options=OPTIONS)
    run_tool('train', whole_run[0], '--work-dir', work, '--resume', options=OPTIONS)
    assert_same(work, whole_run[1])


def test_a_finished_run_says_so(whole_run, tmp_path, capsys):
    work = tmp_path / 'work'
    shutil.copytree(whole_run[1], work)
    before = {path: os.stat(path).st_mtime_ns for path in work.rglob('*')}
    run_tool('train', whole_run[0], '--work-dir', work, '--resume', options=OPTIONS)
    said = ' '.join(capsys.readouterr().out.split())
    assert 'this run is finished, ' in said and 'iter_4.pth is of iteration 4 of 4' in said
    assert {path: os.stat(path).st_mtime_ns for path in work.rglob('*')} == before
    run_tool('train', whole_run[0], '--work-dir', work, '--resume', options=(*OPTIONS[:2], 'train_cfg.max_iters=5'))
    assert set(metrics(work)) == {2, 4, 5}

"""Ctrl-C, SIGTERM, SIGUSR1: one line that says how to go on, the exit status of the signal, no process left behind."""

import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from helpers.commands import run_command
from helpers.runtime_case import tool_environment, write_case
from mmengine.runner import IterBasedTrainLoop

from mmseg_invattn.cli import train
from mmseg_invattn.cli.interruption import report
from mmseg_invattn.experiments.compare import compare as compare_module

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 138}


def stopped_after(iterations, number, monkeypatch):
    """Send this process a signal in the middle of a training."""
    iteration = IterBasedTrainLoop.run_iter

    def run_iter(loop, batch):
        if loop._iter == iterations:
            os.kill(os.getpid(), number)
        iteration(loop, batch)

    monkeypatch.setattr(IterBasedTrainLoop, 'run_iter', run_iter)


@pytest.mark.cases(1)
@pytest.mark.parametrize('number', STATUS)
def test_the_line_resumes(number, tmp_path, capsys, monkeypatch):
    config, work = write_case(tmp_path), tmp_path / 'a b'
    with monkeypatch.context() as patch:
        stopped_after(2, number, patch)
        options = ('train_dataloader.num_workers=1',)
        assert run_command('train', config, '--work-dir', work, options=options) == STATUS[number]
    last = capsys.readouterr().err.strip().splitlines()[-1]
    # a preempted job gets a checkpoint of the iteration in which the signal came
    word, name = ('interrupted', 'iter_2.pth') if number == signal.SIGINT else ('terminated', 'iter_3.pth')
    assert last.startswith(f'mmseg-invattn train: {word}. To continue from {work / name}: mmseg-invattn train ')
    for worker in multiprocessing.active_children():
        worker.join(10)
    assert not multiprocessing.active_children()
    line = shlex.split(last.split(': ', 2)[2])
    assert line[-1] == '--resume' and run_command('train', *line[2:]) == 0
    assert (work / 'iter_6.pth').is_file()


def test_a_signal_that_is_taken_for_an_error(tmp_path, capsys, monkeypatch):
    """MMEngine formats the config for every checkpoint, and raises a SyntaxError whatever happens there."""

    def run_iter(loop, batch):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException as error:
            raise SyntaxError('Failed to format the config file') from error

    monkeypatch.setattr(IterBasedTrainLoop, 'run_iter', run_iter)
    assert run_command('train', write_case(tmp_path), '--work-dir', tmp_path / 'work', options=('',)) == 130
    assert 'interrupted. No checkpoint was written' in capsys.readouterr().err


def test_nothing_was_saved(tmp_path, capsys, monkeypatch):
    stopped_after(1, signal.SIGINT, monkeypatch)
    assert run_command('train', write_case(tmp_path), '--work-dir', tmp_path / 'work', options=('',)) == 130
    assert f'No checkpoint was written to {tmp_path / "work"} yet' in capsys.readouterr().err


def test_other_processes_of_a_run_say_nothing(tmp_path, capsys, monkeypatch):
    stopped_after(1, signal.SIGTERM, monkeypatch)
    monkeypatch.setenv('RANK', '1')
    assert run_command('train', write_case(tmp_path), '--work-dir', tmp_path / 'work', options=('',)) == 143
    assert 'terminated' not in capsys.readouterr().err


def test_a_comparison(tmp_path, capsys, monkeypatch):
    def stop(args):
        (args.out / 'head' / 'seed_0').mkdir(parents=True)
        (args.out / 'head' / 'seed_0' / 'run.json').write_text('{}')
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(compare_module, 'compare', stop)
    assert run_command('compare', 'a.py', '--out', tmp_path / 'out') == 143
    said = capsys.readouterr().err
    assert f'To continue {tmp_path / "out"}: mmseg-invattn compare a.py --out {tmp_path / "out"} --resume' in said


def test_before_torch_is_imported(capsys, monkeypatch):
    """A partly imported torch must not be imported again."""
    monkeypatch.delitem(sys.modules, 'torch')
    assert report(KeyboardInterrupt(), 'mmseg-invattn train', train) == 130
    assert 'interrupted. This command cannot be resumed: start it again' in capsys.readouterr().err


def test_the_signals_are_as_before(tmp_path, capsys):
    before = [signal.getsignal(number) for number in STATUS]
    assert run_command('print-config', tmp_path / 'none.py') == 2
    assert [signal.getsignal(number) for number in STATUS] == before


@pytest.mark.slow
def test_in_a_process_of_its_own(tmp_path):
    """As a terminal does it: the signal reaches the workers, too."""
    command = [
        sys.executable,
        '-m',
        'mmseg_invattn.cli',
        'train',
        write_case(tmp_path),
        '--work-dir',
        tmp_path / 'work',
    ]
    command += ['--cfg-options', 'train_cfg.max_iters=100000', 'train_dataloader.num_workers=2']
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=tool_environment(),
    )  # fmt: skip
    said = []
    for line in process.stdout:
        said.append(line)
        if 'Saving checkpoint at 4 ' in line:
            os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130 and said[-1].rstrip().endswith('--resume') and 'Traceback' not in ''.join(said)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail('a process of the training is left')

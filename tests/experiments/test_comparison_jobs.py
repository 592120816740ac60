"""Runs of a comparison side by side: they do run at once, and an interrupt or an error ends all of them."""

import os
import signal
import sys
import threading
import time
from unittest import mock

import pytest
import torch

from mmseg_invattn.experiments.compare.jobs import gpu_of, shared_cores, work_on_all
from mmseg_invattn.experiments.compare.process import Processes, run_process

WAITING = 'import os, time; print("Iter(train)", os.getpid(), flush=True); time.sleep(60)'


def is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    with open(f'/proc/{number}/stat') as file:  # nobody collects a zombie in a container
        return file.read().split()[2] != 'Z'


def test_two_at_a_time_in_their_order():
    meeting, begun = threading.Barrier(2, timeout=20), []

    def work(item, settings):
        begun.append(item)
        meeting.wait()  # for another one that is at work as well

    work_on_all(range(6), 2, work, Processes())
    assert sorted(begun) == list(range(6)) and all({*begun[i : i + 2]} == {i, i + 1} for i in (0, 2, 4))


def test_one_job_is_this_thread():
    seen = []
    work_on_all('ab', 1, lambda item, settings: seen.append((item, threading.current_thread())), Processes())
    assert seen == [('a', threading.main_thread()), ('b', threading.main_thread())]


@pytest.mark.parametrize('stubborn', [False, True])
def test_an_interrupt_ends_all_processes_and_begins_no_other(tmp_path, stubborn):
    processes, begun, meeting, failed = Processes(), [], threading.Barrier(2, timeout=20), []
    code = ('import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); ' if stubborn else '') + WAITING

    def heard(line):
        begun.append(int(line.split()[1]))
        if meeting.wait() == 0:
            os.kill(os.getpid(), signal.SIGINT)

    def work(item, settings):
        try:
            run_process([sys.executable, '-c', code], tmp_path / f'{item}.log', heard, processes=processes)
        except Exception as error:
            failed.append(type(error).__name__)
            raise

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), mock.patch('mmseg_invattn.experiments.compare.jobs.PATIENCE', 0.5):
        work_on_all(range(4), 2, work, processes)
    assert len(begun) == 2 and not any(map(is_alive, begun)) and time.monotonic() - start < 30
    assert set(failed) == {'StoppedError'}  # so that no run is noted as failed
    assert not (tmp_path / '2.log').exists() or (tmp_path / '2.log').read_text() == ''


def test_an_error_ends_the_others(tmp_path):
    processes, ready = Processes(), threading.Event()

    def work(item, settings):
        if item == 1:
            assert ready.wait(20)
            raise OSError('no space left')
        run_process([sys.executable, '-c', WAITING], tmp_path / 'log', lambda line: ready.set(), processes=processes)

    start = time.monotonic()
    with pytest.raises(OSError, match='no space left'):
        work_on_all(range(3), 2, work, processes)
    assert time.monotonic() - start < 30


def test_every_job_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    with mock.patch('torch.cuda.device_count', return_value=1):
        assert gpu_of(0) == gpu_of(1) == {}
    with mock.patch('torch.cuda.device_count', return_value=2):
        assert [gpu_of(number)['CUDA_VISIBLE_DEVICES'] for number in range(3)] == ['0', '1', '0']
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '5,7')
        assert [gpu_of(number)['CUDA_VISIBLE_DEVICES'] for number in range(3)] == ['5', '7', '5']


def test_what_a_job_is_given_reaches_its_process(tmp_path):
    code = 'import os; print(os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"])'

    def work(item, settings):
        run_process([sys.executable, '-c', code], tmp_path / f'{item}', print, settings=settings)

    with (
        mock.patch('torch.cuda.device_count', return_value=2),
        mock.patch.dict(os.environ, OMP_NUM_THREADS='3', CUDA_VISIBLE_DEVICES='5,7'),
    ):
        work_on_all('ab', 2, work, Processes())
    assert sorted((tmp_path / name).read_text() for name in 'ab') == ['5 3\n', '7 3\n']


def test_jobs_share_the_cores(monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with shared_cores(2):
            assert os.environ['OMP_NUM_THREADS'] == '2' and torch.get_num_threads() == 2
        assert 'OMP_NUM_THREADS' not in os.environ and torch.get_num_threads() == 4
        with shared_cores(1):
            assert 'OMP_NUM_THREADS' not in os.environ
        monkeypatch.setenv('OMP_NUM_THREADS', '3')
        with shared_cores(2):
            assert os.environ['OMP_NUM_THREADS'] == '3' and torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)

"""``mmseg-invattn benchmark --gpu``: its tests and measurements, its messages on failures, and without a GPU."""

import subprocess

import pytest
import torch
from helpers.checkout import ROOT
from torch.cuda._utils import _get_device_index

from mmseg_invattn.cli import benchmark as tool
from mmseg_invattn.experiments.benchmark import gpu, inverse, models, stacks
from mmseg_invattn.experiments.benchmark.precision import autocast
from mmseg_invattn.experiments.benchmark.session import Session

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')


def session_of(lines, **options):
    return Session(lines.append, **options)


def test_tests_that_fail_are_a_line_and_no_success(tmp_path):
    """Those that pass: the shared run in ``test_benchmark.py``."""
    (tmp_path / 'test_two.py').write_text('def test_one():\n    pass\n\n\ndef test_two():\n    assert False\n')
    lines = []
    assert gpu.run_tests(session_of(lines), tmp_path) is False
    assert '1 failed, 1 passed' in lines[0].note and lines[0].quantities[0].ours > 0


def test_an_installation_without_tests_says_so_and_goes_on(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(gpu, 'TESTS', tmp_path / 'absent')
    assert gpu.run(session_of(lines), dict(part=lambda session: session.add('measured'))) == 0
    assert 'not run: they need a checkout' in lines[0].note and lines[1] == 'measured'


def test_tests_that_hang_are_stopped(tmp_path, monkeypatch):
    def hang(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout, output=b'test_one')

    lines = []
    monkeypatch.setattr(gpu.subprocess, 'run', hang)
    assert gpu.run_tests(session_of(lines), tmp_path) is False
    assert lines[0].note == f'stopped after {gpu.TIME_OF_TESTS} s'


def test_the_tests_are_there():
    assert gpu.TESTS == ROOT / 'tests' / 'gpu' and len(list(gpu.TESTS.glob('test_*.py'))) > 5


def test_a_part_that_fails_takes_no_other_with_it(monkeypatch):
    def fail(session):
        raise torch.OutOfMemoryError('CUDA out of memory\nand much more')

    lines = []
    monkeypatch.setattr(gpu, 'run_tests', lambda *_: True)
    assert gpu.run(session_of(lines), dict(first=fail, second=lambda session: session.add('measured'))) == 1
    assert lines[0].what == 'first' and lines[0].note == 'failed: OutOfMemoryError: CUDA out of memory'
    assert lines[1:] == ['measured']


def test_no_part_begins_when_the_time_is_over(monkeypatch):
    lines = []
    monkeypatch.setattr(gpu, 'run_tests', lambda *_: True)
    monkeypatch.setattr(gpu, 'TIME', -1)
    assert gpu.run(session_of(lines), dict(models=pytest.fail)) == 0
    assert 'not run' in lines[0].note and '--what models' in lines[0].note


def test_what_it_measures_are_parts(monkeypatch, tmp_path):
    ran = []
    parts = {name: lambda session, name=name: ran.append(name) for name in tool.PARTS}
    monkeypatch.setattr(tool, 'measurements', lambda: parts)
    monkeypatch.setattr(gpu, 'run_tests', lambda *_: ran.append('tests') or True)
    assert tool.main(['--gpu', '--quick', '--out', str(tmp_path)]) == 0
    assert ran == ['tests', *tool.GPU_PARTS]
    ran.clear()
    tool.main(['--gpu', '--quick', '--what', 'models', '--out', str(tmp_path), '--overwrite'])
    assert ran == ['tests', 'models']


@without_gpu
def test_without_a_gpu_it_says_how_to_try():
    with pytest.raises(ValueError, match='--gpu, but torch finds no GPU: add --quick for a trial on the CPU'):
        tool.main(['--gpu'])


def test_a_gpu_and_the_cpu_at_once(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    with pytest.raises(ValueError, match='--gpu with --device=cpu: leave one of them out'):
        tool.main(['--gpu', '--device', 'cpu'])


@pytest.mark.parametrize('arguments, index', [(['--gpu'], 0), (['--device', 'cuda'], 0), (['--device', 'cuda:1'], 1)])
def test_a_card_is_chosen(monkeypatch, tmp_path, arguments, index):
    """Without a GPU: torch parses the chosen device, and sessions know that they are on a GPU."""
    chosen, sessions = [], []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'set_device', lambda device: chosen.append(_get_device_index(device)))
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'a card')
    monkeypatch.setattr(tool, 'measurements', lambda: {'kernels': sessions.append})
    monkeypatch.setattr(gpu, 'run_tests', lambda *_: True)
    assert tool.main([*arguments, '--out', str(tmp_path)]) == 0
    assert chosen == [index] and sessions[0].on_gpu and sessions[0].dtypes == ('float32', 'bfloat16')


def test_sizes_of_a_gpu(monkeypatch):
    """The maps of a head where memory is measured, and inverses of 8192 and 32768 pixels."""
    compared = []
    monkeypatch.setattr(Session, 'compare', lambda self, *args, **_: compared.append(args[2]))
    monkeypatch.setattr(stacks, 'compare_gradients', lambda *_: None)
    stacks.run(Session(None, 'cuda', dtypes=('bfloat16',)))
    assert all(sizes == dict(B=2, C=256, N=8192, dtype='bfloat16') for sizes in compared) and compared
    assert [height * width for height, width in inverse.LARGE] == [8192, 32768]


def test_targets_of_the_models():
    """At most a tenth above the ordinary twin under autocast, where the branch follows it; of other models none."""
    name = "invnl, precision='autocast'"
    session = Session(None)
    assert models.limits(session, name, models.train, 'bfloat16') == dict(time_limit=1.1, memory_limit=1.1)
    assert models.limits(session, 'invnl', models.train, 'bfloat16') == {}
    assert models.limits(session, name, models.infer, 'bfloat16') == {}
    assert models.limits(Session(None, configs=('mine.py',)), name, models.train, 'bfloat16') == {}


@pytest.mark.parametrize('dtype, wanted', [('float32', torch.float32), ('bfloat16', torch.bfloat16)])
def test_autocast_is_what_a_dtype_means(dtype, wanted):
    x = torch.ones(2, 2)
    with autocast(dtype, 'cpu'):
        assert (x @ x).dtype == wanted

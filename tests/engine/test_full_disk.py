"""On a full disk the error names the file and its size, outputs are whole or absent, and logs do not end a run."""

import errno
import json
import os
import resource
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.commands import run_command
from helpers.runtime_case import write_case
from mmengine.visualization import LocalVisBackend

from mmseg_invattn.engine import atomic_backend, forgiving_logs
from mmseg_invattn.engine.atomic_backend import AtomicLocalBackend, whole_file
from mmseg_invattn.evaluation.confusion import write_confusion
from mmseg_invattn.layers.export import export_torch
from mmseg_invattn.visualization.figures import new_figure, save_figure
from mmseg_invattn.visualization.media import write_image

FULL = OSError(errno.ENOSPC, 'No space left on device')


@pytest.fixture
def small_files():
    """Files of this process end at 2000 bytes, as they do on a disk that is full."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size=2000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def write_program(path):
    with whole_file(path) as partial:
        export_torch(torch.nn.Linear(40, 40).eval(), torch.zeros(2, 40), partial)


def write_figure(path):
    figure = new_figure(4, 4)
    figure.add_subplot().plot(np.random.default_rng(0).random(99))
    save_figure(figure, path)


WRITERS = {
    'bytes.bin': lambda path: AtomicLocalBackend().put(bytes(5000), path),
    'page.html': lambda path: AtomicLocalBackend().put_text('x' * 5000, path),
    'picture.png': lambda path: write_image(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)),
    'figure.svg': write_figure,
    'matrix.csv': lambda path: write_confusion(path, np.full((50, 50), 10**9), [f'class {k}' for k in range(50)]),
    'matrix.npy': lambda path: write_confusion(path, np.full((50, 50), 10**9), []),
    'program.pt2': write_program,
}


@pytest.mark.parametrize('name', WRITERS)
@pytest.mark.parametrize('there', [False, True])
def test_outputs_are_whole_or_not_there(tmp_path, small_files, name, there):
    path = tmp_path / name
    if there:
        path.write_text('what was there')
    small_files()
    with pytest.raises(OSError) as caught:
        WRITERS[name](path)
    small_files(resource.RLIM_INFINITY)
    said = caught.value.strerror
    assert said.startswith(f'{path}') and 'could not be written: ' in said
    assert ('the file that was there before is unchanged' if there else 'nothing of it is left behind') in said
    assert sorted(tmp_path.iterdir()) == [path] * there and (not there or path.read_text() == 'what was there')
    WRITERS[name](path)
    assert path.stat().st_size > 2000 and sorted(tmp_path.iterdir()) == [path]


def test_the_size_is_named(tmp_path, small_files):
    small_files()
    with pytest.raises(OSError, match=r'bytes.bin \(4.9 KiB\) could not be written: File too large, .* are free there'):
        WRITERS['bytes.bin'](tmp_path / 'bytes.bin')


def test_devices_and_links(tmp_path):
    """A device stays a device."""
    AtomicLocalBackend().put(b'text', os.devnull)
    assert not Path(os.devnull).is_file()
    (tmp_path / 'file').write_text('old')
    (tmp_path / 'link').symlink_to('file')
    AtomicLocalBackend().put(b'new', tmp_path / 'link')
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'file').read_text() == 'new'


@pytest.mark.cases(1)
@pytest.mark.parametrize(('which', 'safe'), [(0, 'There is no checkpoint yet'), (2, 'The last whole checkpoint is {}')])
def test_a_checkpoint(tmp_path, capsys, monkeypatch, which, safe):
    """``which``: of the files written, a checkpoint and a record in turn."""
    written, write = [], atomic_backend._write

    def full(file, content):
        written.append(file.name)
        if len(written) == which + 1:
            file.write(content[: len(content) // 2])
            raise FULL
        write(file, content)

    config, work = write_case(tmp_path), tmp_path / 'work'
    with monkeypatch.context() as patch:
        patch.setattr(atomic_backend, '_write', full)
        assert run_command('train', config, '--work-dir', work, options=('',)) == 2
    said = ' '.join(capsys.readouterr().err.split())
    name = f'iter_{which + 2}.pth'
    assert f'{work / name} (' in said and 'KiB) could not be written: No space left on device, ' in said
    assert safe.format(work / 'iter_2.pth') in said and 'go on with --resume' in said and 'Traceback' not in said
    assert [path.name for path in work.glob('*.pth')] == ['iter_2.pth'] * (which > 0)
    assert not list(work.glob('.*partial*'))
    assert run_command('train', config, '--work-dir', work, '--resume', options=('',)) == 0
    assert (work / 'iter_6.pth').is_file()


def test_logs_end_no_run(tmp_path, capsys, monkeypatch):
    """The log file, the scalars and the copy of the config fail from the third iteration on, one line in the middle."""
    forgiving_logs._said.clear()
    dump, calls = LocalVisBackend._dump, []

    def full(backend, value, path, kind):
        calls.append(value)
        if len(calls) == 3:
            with open(path, 'a') as file:
                file.write(json.dumps(value)[:10])
            raise FULL
        dump(backend, value, path, kind)

    def no_log(handler, record):
        try:
            raise FULL
        except OSError:
            handler.handleError(record)

    monkeypatch.setattr(LocalVisBackend, '_dump', full)
    monkeypatch.setattr('logging.FileHandler.emit', no_log)
    monkeypatch.setattr('mmengine.config.Config.dump', lambda *args: (_ for _ in ()).throw(FULL))
    assert run_command('train', write_case(tmp_path), '--work-dir', tmp_path / 'work', options=('',)) == 0
    said = capsys.readouterr().err
    assert said.count('the log of LocalVisBackend cannot be written (No space left on device): the run goes on') == 1
    assert said.count('.log cannot be written (No space left on device): the run goes on without it') == 1
    assert 'the copy of the config cannot be written' in said and 'Traceback' not in said
    (scalars,) = (tmp_path / 'work').glob('*/vis_data/scalars.json')
    steps = [json.loads(line)['step'] for line in scalars.read_text().splitlines()]
    assert steps == [1, 3, 4, 5, 6, 6]  # each is written to two files; the half line of the second is gone
    assert (tmp_path / 'work' / 'iter_6.pth').is_file()


def test_pictures_of_a_test(tmp_path, capsys, small_files):
    """As a user sees it: one sentence, exit status 2, no picture of 0 bytes."""
    from helpers.commands import write_command_case

    case = write_command_case(tmp_path)
    image = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    cv2.imwrite(case['image'], image)
    small_files(20_000)
    try:
        status = run_command('predict', case['config'], case['weights'], case['image'], '--out', tmp_path / 'out')
    finally:
        small_files(resource.RLIM_INFINITY)
    said = capsys.readouterr().err
    assert status == 2 and 'could not be written: File too large' in said and 'Traceback' not in said
    assert all(path.stat().st_size for path in (tmp_path / 'out').rglob('*') if path.is_file())

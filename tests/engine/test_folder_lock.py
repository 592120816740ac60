"""Only one process at a time writes a run into a folder, and a lock ends with its holder."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from helpers.checkout import ROOT
from helpers.commands import run_command
from helpers.runtime_case import write_case

from mmseg_invattn.engine import folder_lock
from mmseg_invattn.engine.folder_lock import FolderInUseError, locked

HOLDER = """
import sys, time
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location('folder_lock', sys.argv[1])  # without torch, which the package's engine imports
module = module_from_spec(spec)
spec.loader.exec_module(module)
with module.locked(sys.argv[2]):
    print('locked', flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that keeps the folder."""
    module = ROOT / 'mmseg_invattn' / 'engine' / 'folder_lock.py'
    process = subprocess.Popen([sys.executable, '-c', HOLDER, module, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'locked\n'
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def write_lock(folder, **holder):
    (folder / '.lock').write_text(json.dumps(dict(dict(pid=os.getpid(), host='elsewhere', since=0.0), **holder)))


def test_the_lock_goes_with_the_work(tmp_path):
    with locked(tmp_path / 'new'):
        assert json.loads((tmp_path / 'new' / '.lock').read_text())['pid'] == os.getpid()
        with pytest.raises(FolderInUseError):
            with locked(tmp_path / 'new'):
                pass
    assert not list((tmp_path / 'new').iterdir())
    with locked(tmp_path / 'new'):
        pass


def test_another_process_is_named_and_a_killed_one_forgotten(holder, tmp_path, capsys):
    config = write_case(tmp_path / 'case')
    assert run_command('train', config, '--work-dir', tmp_path, options=('',)) == 2
    said = capsys.readouterr().err
    assert f'--work-dir {tmp_path} is in use by process {holder.pid} on {socket.gethostname()} since' in said
    assert 'Traceback' not in said and not list(tmp_path.glob('*.pth'))
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / '.lock').stat().st_size
    with locked(tmp_path):
        assert json.loads((tmp_path / '.lock').read_text())['pid'] == os.getpid()


def test_of_many_at_once_one_gets_it(tmp_path):
    inside, refused = [], []

    def work():
        try:
            with locked(tmp_path):
                inside.append(1)
                assert sum(inside) == 1
                time.sleep(0.2)
                inside.append(-1)
        except FolderInUseError:
            refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inside) // 2 + len(refused) == 20 and len(refused) > 10


def test_workers_do_not_keep_it(tmp_path):
    """A data loader's worker, forked by a process that is then killed."""
    read, write = os.pipe()
    holder = os.fork()
    if not holder:
        with locked(tmp_path):
            worker = os.fork()
            if not worker:
                time.sleep(30)
                os._exit(0)
            os.write(write, str(worker).encode())
            time.sleep(30)
        os._exit(0)
    worker = int(os.read(read, 20))
    os.close(read)
    os.close(write)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    try:
        start = time.monotonic()
        with locked(tmp_path):
            assert time.monotonic() - start < 5
    finally:
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize('content', ['', '{', '[]', '{"pid": "x"}', 'ÿþ'])
def test_a_lock_that_says_nothing_is_stale(tmp_path, content):
    (tmp_path / '.lock').write_text(content)
    with locked(tmp_path):
        pass


def test_a_machine_whose_locks_do_not_reach_here(tmp_path, monkeypatch, capsys):
    """A working process touches its lock. A lock that is not touched, or is old, is taken over."""
    monkeypatch.setattr(folder_lock, 'WATCHED_FOR', 1.0)
    write_lock(tmp_path)
    stop = threading.Event()

    def touch():
        while not stop.wait(0.1):
            os.utime(tmp_path / '.lock')

    toucher = threading.Thread(target=touch)
    toucher.start()
    with pytest.raises(FolderInUseError, match=f'process {os.getpid()} on elsewhere'):
        with locked(tmp_path):
            pass
    stop.set()
    toucher.join()
    with locked(tmp_path):
        pass
    assert 'names a process on elsewhere: waiting 1 s' in capsys.readouterr().out
    write_lock(tmp_path)
    os.utime(tmp_path / '.lock', (0, 0))
    with locked(tmp_path):
        assert not capsys.readouterr().out


def test_where_files_have_no_locks_the_process_decides(tmp_path, monkeypatch):
    def no_locks(file, operation):
        raise OSError(38, 'Function not implemented')

    monkeypatch.setattr(fcntl, 'flock', no_locks)
    write_lock(tmp_path, host=socket.gethostname(), pid=os.getppid())
    with pytest.raises(FolderInUseError, match=f'process {os.getppid()} on '):
        with locked(tmp_path):
            pass
    ended = subprocess.Popen(['true'])
    ended.wait()
    write_lock(tmp_path, host=socket.gethostname(), pid=ended.pid)
    with locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='--work-dir .*file/run: Not a directory; choose a folder that can be written'):
        with locked(tmp_path / 'file' / 'run'):
            pass

    def refuse(*args):
        raise OSError(30, 'Read-only file system')

    monkeypatch.setattr(os, 'open', refuse)
    with pytest.raises(OSError, match='nothing can be written there .Read-only file system.; choose another folder'):
        with locked(tmp_path):
            pass

"""A training that is repeatedly killed, stopped or starved of resources ends like an undisturbed one.

    python tests/fault_drill.py                     # all of it
    python tests/fault_drill.py --kills 3 --only kills sigterm

Every round starts a training, does it harm at a random moment (while it saves, validates, logs or trains), and resumes
until it is finished. Then the final weights, the history of every metric, and the best checkpoint have to be those of
an undisturbed run. Exit status 1 where one is not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from helpers.checkout import ROOT
from helpers.runtime_case import run_tool, tool_environment, write_case
from torch.utils.data._utils import worker

MAX_ITERS = 12
OPTIONS = (
    f'train_cfg.max_iters={MAX_ITERS}',
    f'param_scheduler.0.end={MAX_ITERS}',
    'train_cfg.val_interval=3',
    '+default_hooks.checkpoint.save_best=mIoU',
    'default_hooks.checkpoint.interval=3',
    'default_hooks.checkpoint.max_keep_ckpts=2',
)
PATIENCE = 120  # seconds for a process to do what it was asked to
TRIES = 6  # starts after the harm that a run may need


class DrillError(AssertionError):
    """A run that does not end as the undisturbed one."""


# ------------------------------------------------------------------------------------------------ running a training


def begin(config: str, work: Path, *options: str, prepare: Callable[[], None] = lambda: None) -> int:
    """Start a training in a forked process, which has all imports behind it; its id.

    Args:
        config: File.
        work: Work directory; a run that is there is resumed.
        options: More ``--cfg-options``.
        prepare: Called in the process before it trains.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        with open(work.parent / f'{work.name}.log', 'a') as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        # under a test runner these two are files of its own
        sys.stdout, sys.stderr = open(1, 'w', closefd=False), open(2, 'w', closefd=False)
        prepare()
        from mmseg_invattn.cli.main import main

        sys.argv = ['mmseg-invattn']
        name = f'drill{os.getpid()}'
        settings = [f'experiment_name={name}', f'visualizer.name={name}', *OPTIONS, *options]
        with _quickly():
            status = main(['train', config, '--work-dir', str(work), '--resume', '--cfg-options', *settings])
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)


@contextlib.contextmanager
def _quickly() -> Iterator[None]:
    from helpers.runtime_case import configs_laid_out_quickly

    torch.set_num_threads(1)
    with configs_laid_out_quickly():
        yield


def status_of(child: int, seconds: float = PATIENCE) -> int | None:
    """The exit status of a process, negative for the signal that has killed it; None: it still runs."""
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.005)


def finish(config: str, work: Path, *options: str) -> None:
    """Resume until the run is finished."""
    for _ in range(TRIES):
        if status_of(begin(config, work, *options)) == 0:
            return
    raise DrillError(f'{work}: does not come to its end in {TRIES} starts, see {work}.log')


# ------------------------------------------------------------------------------------------------------- what is left


def result(work: Path) -> dict:
    """Final weights, state of the optimiser, history of the metrics and the best checkpoint of a run."""
    found: dict = {}
    for path in sorted(work.glob('*.pth')):
        content = torch.load(path, weights_only=True)
        history = content['message_hub']['log_scalars']
        found[path.name] = dict(
            iteration=content['meta']['iter'],
            weights=content['state_dict'],
            optimizer={
                f'{key}.{name}': value
                for key, state in content.get('optimizer', {}).get('state', {}).items()
                for name, value in state.items()
            },
            history={key: value['log'] for key, value in history.items() if 'time' not in key and 'memory' not in key},
            best=content['message_hub']['runtime_info'].get('best_score'),
        )
    return found


def compare(work: Path, reference: dict) -> None:
    """Raise where a run has not ended like the undisturbed one, or has left something half written."""
    found = result(work)
    last = f'iter_{MAX_ITERS}.pth'
    best = {name for name in reference if name.startswith('best')}
    if not best or {name for name in found if name.startswith('best')} != best or last not in found:
        raise DrillError(f'{work}: {sorted(found)} instead of {sorted(reference)}')
    for name in (last, *best):
        for part in ('iteration', 'best'):
            if found[name][part] != reference[name][part]:
                raise DrillError(f'{work}/{name}: {part} {found[name][part]} instead of {reference[name][part]}')
        for part in ('weights', 'optimizer', 'history'):
            one, other = found[name][part], reference[name][part]
            different = [key for key in {*one, *other} if key not in one or not torch.equal(one[key], other[key])]
            if different:
                raise DrillError(f'{work}/{name}: {part} differ in {sorted(different)[:3]}')
    left = [path.name for path in work.rglob('.*') if path.is_file()]
    if left:
        raise DrillError(f'{work}: {left} are left')


# -------------------------------------------------------------------------------------------------------------- harm


def killed(config: str, work: Path, chance: random.Random, moment: str) -> str:
    """SIGKILL at a random call of what is done in such a moment."""
    places = {
        'saving': ('mmseg_invattn.engine.atomic_backend', '_write', 14),
        'recording': ('os', 'replace', 12),
        'removing': ('os', 'unlink', 8),
        'validating': ('mmengine.runner.loops.ValLoop', 'run_iter', 16),
        'training': ('mmengine.runner.loops.IterBasedTrainLoop', 'run_iter', MAX_ITERS),
        'logging': ('logging.FileHandler', 'emit', 60),
        'scalars': ('mmengine.visualization.LocalVisBackend', '_dump', 24),
    }
    place, name, most = places[moment]
    call, half = chance.randrange(most), chance.random() < 0.5

    def prepare() -> None:
        from pkgutil import resolve_name

        owner = resolve_name(place)
        original, calls = getattr(owner, name), []

        def die(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) != call + 1:
                return original(*args, **kwargs)
            if moment == 'saving':
                file, content = args
                file.write(content[: len(content) // 2])
                file.flush()
            elif half:
                original(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
            return None

        setattr(owner, name, die)

    status = status_of(begin(config, work, prepare=prepare))
    return f'killed while {moment}, call {call}' if status == -signal.SIGKILL else f'{moment}: not reached'


def killed_at_random(config: str, work: Path, chance: random.Random) -> str:
    """SIGKILL at any moment at all."""
    child, after = begin(config, work), chance.uniform(0.2, 3)
    status = status_of(child, after)
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return f'killed after {after:.2f} s' if status is None else 'ended before the kill'


def signalled(config: str, work: Path, chance: random.Random, number: int) -> str:
    """A signal to the process, or to its whole group as a terminal and a scheduler send it."""
    group = chance.random() < 0.5
    child = begin(config, work, 'train_dataloader.num_workers=1')
    log = Path(f'{work}.log')
    target = chance.randrange(1, MAX_ITERS)
    _wait_for(log, f'[{target:5d}/{MAX_ITERS}]'.replace(' ', ''), child)
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(child, number)
    status = status_of(child)
    if status not in (0, 128 + number):
        raise DrillError(f'{work}: exit status {status} after signal {number}, see {log}')
    if status and 'To continue from ' not in log.read_text() and 'No checkpoint was written' not in log.read_text():
        raise DrillError(f'{work}: nothing says how to go on, see {log}')
    return f'signal {number} to {"the group" if group else "the process"} in iteration {target}, status {status}'


def _wait_for(log: Path, text: str, child: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while text not in (log.read_text().replace(' ', '') if log.exists() else ''):
        if time.monotonic() > deadline:
            raise DrillError(f'{log}: {text} never came')
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.01)


def without_a_worker(config: str, work: Path, chance: random.Random) -> str:
    """A worker of the data loader is killed, as the system does it for lack of memory."""
    fetch = chance.randrange(2, MAX_ITERS)

    def prepare() -> None:
        loop, calls = worker._worker_loop, []

        def dying(*args: Any, **kwargs: Any) -> None:
            dataset = args[1]
            get = type(dataset).__getitem__

            def item(self: object, index: int) -> object:
                calls.append(1)
                if len(calls) == 2 * fetch:
                    os.kill(os.getpid(), signal.SIGKILL)
                return get(self, index)

            type(dataset).__getitem__ = item
            loop(*args, **kwargs)

        worker._worker_loop = dying

    status = status_of(begin(config, work, 'train_dataloader.num_workers=1', prepare=prepare))
    if status == 0 or status is None:
        raise DrillError(f'{work}: exit status {status} although the worker was killed, see {work}.log')
    return f'a worker killed at batch {fetch}, status {status}'


def on_a_full_disk(config: str, work: Path, chance: random.Random) -> str:
    """A limit on the size of files lets no checkpoint through."""
    size = chance.randrange(2_000, 250_000)

    def prepare() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    status = status_of(begin(config, work, prepare=prepare))
    log = Path(f'{work}.log')
    if status != 2:
        raise DrillError(f'{work}: exit status {status} on a full disk, see {work}.log')
    if log.stat().st_size < size and 'could not be written' not in log.read_text(
        errors='replace'
    ):  # it ends there, too
        raise DrillError(f'{work}: nothing says what could not be written, see {work}.log')
    return f'files end at {size} bytes'


def on_a_full_file_system(config: str, work: Path, chance: random.Random) -> str:
    """A small file system of its own, where that can be mounted."""
    work.mkdir()
    size = chance.randrange(150, 700)
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}k', 'drill', work], capture_output=True)
    if mounted.returncode:
        return 'skipped, nothing can be mounted here'
    try:
        status = status_of(begin(config, work))
        kept = work.with_name(f'{work.name}_kept')
        shutil.copytree(work, kept)
    finally:
        subprocess.run(['umount', '-l', work], check=True)
    shutil.copytree(kept, work, dirs_exist_ok=True)
    if status != 2 or 'No space left on device' not in Path(f'{work}.log').read_text():
        raise DrillError(f'{work}: exit status {status} on a full file system of {size} KiB, see {work}.log')
    return f'a file system of {size} KiB'


def in_a_read_only_folder(config: str, work: Path, chance: random.Random) -> str:
    """Nothing can be written there; root may write anywhere, so a file system says it."""
    work.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'ro', 'drill', work], capture_output=True)
    if mounted.returncode:
        return 'skipped, nothing can be mounted here'
    try:
        status = status_of(begin(config, work))
    finally:
        subprocess.run(['umount', '-l', work], check=True)
    if status != 2 or 'nothing can be written there' not in Path(f'{work}.log').read_text():
        raise DrillError(f'{work}: exit status {status} in a read-only folder, see {work}.log')
    return 'refused'


def without_a_rank(config: str, work: Path, chance: random.Random) -> str:
    """One of two processes is killed: the other one and the launcher end, and one process finishes the run."""
    return _two_ranks(config, work, lambda launcher, ranks: os.kill(chance.choice(ranks), signal.SIGKILL))


def without_the_launcher(config: str, work: Path, chance: random.Random) -> str:
    """The launcher is killed: its ranks end by themselves."""
    return _two_ranks(config, work, lambda launcher, ranks: os.kill(launcher, signal.SIGKILL))


def one_rank_signalled(config: str, work: Path, chance: random.Random) -> str:
    """One of two processes gets SIGTERM: both stop at one iteration, whose checkpoint is there."""
    said = _two_ranks(config, work, lambda launcher, ranks: os.kill(chance.choice(ranks), signal.SIGTERM))
    # in a validation the checkpoint of that iteration is there already
    if 'To continue from ' not in Path(f'{work}.log').read_text():
        raise DrillError(f'{work}: the ranks did not agree on an iteration, see {work}.log')
    return said


def _two_ranks(config: str, work: Path, harm: Callable[[int, list[int]], None]) -> str:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    log = Path(f'{work}.log')
    # as long as it takes: the run is finished by one process with the doubled batch
    options = [*OPTIONS, 'train_dataloader.batch_size=1', 'model.decode_head.dropout_ratio=0']
    with open(log, 'a') as file:
        launcher = subprocess.Popen(
            [ROOT / 'tools' / 'dist_train.sh', config, '2', '--work-dir', work, '--resume', '--cfg-options', *options,
             f'train_cfg.max_iters={100 * MAX_ITERS}', 'default_hooks.checkpoint.max_keep_ckpts=-1'],
            stdout=file, stderr=file, env=tool_environment(PORT=str(port)), start_new_session=True,
        )  # fmt: skip
    _wait_for(log, f'[5/{100 * MAX_ITERS}]', launcher.pid)
    ranks = _children(launcher.pid)
    harm(launcher.pid, ranks)
    launcher.wait(PATIENCE)
    deadline = time.monotonic() + 60
    while any(map(_is_alive, ranks)):
        if time.monotonic() > deadline:
            raise DrillError(f'{work}: ranks {ranks} live on without their launcher, see {log}')
        time.sleep(0.1)
    if not list(work.glob('iter_*.pth')):
        raise DrillError(f'{work}: no checkpoint is left, see {log}')
    return f'status {launcher.returncode}'


def _children(process: int) -> list[int]:
    found = Path(f'/proc/{process}/task/{process}/children').read_text().split()
    return [int(child) for child in found]


def _is_alive(process: int) -> bool:
    try:
        return Path(f'/proc/{process}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError:
        return False


# ---------------------------------------------------------------------------------------------------------- the drill

MOMENTS = ('saving', 'recording', 'removing', 'validating', 'training', 'logging', 'scalars')
ENDS_LIKE = {  # harm after which the finished run is compared with the undisturbed one
    'sigterm': lambda config, work, chance: signalled(config, work, chance, signal.SIGTERM),
    'sigusr1': lambda config, work, chance: signalled(config, work, chance, signal.SIGUSR1),
    'sigint': lambda config, work, chance: signalled(config, work, chance, signal.SIGINT),
    'worker': without_a_worker,
    'limit': on_a_full_disk,
    'full': on_a_full_file_system,
    'read-only': in_a_read_only_folder,
}
OF_RANKS = {'rank': without_a_rank, 'launcher': without_the_launcher, 'rank-sigterm': one_rank_signalled}
ALL = ('kills', *ENDS_LIKE, *OF_RANKS)


def drill(folder: Path, kills: int, only: tuple[str, ...] = ALL, seed: int = 0, say: Callable = print) -> None:
    """Carry it out.

    Args:
        folder: An empty one, for all runs.
        kills: Runs that are killed, each twice.
        only: Names of ``ALL``.
        seed: Of the moments.
        say: Takes a line about every round.

    Raises:
        DrillError: A run has not ended as the undisturbed one.
    """
    config = write_case(folder)
    reference = folder / 'undisturbed'
    run_tool('train', config, '--work-dir', reference, options=OPTIONS)
    expected = result(reference)
    chance = random.Random(seed)
    for number in range(kills if 'kills' in only else 0):
        work = folder / f'kill_{number}'
        first = killed(config, work, chance, MOMENTS[number % len(MOMENTS)])
        second = killed_at_random(config, work, chance) if number % 2 else 'no second kill'
        finish(config, work)
        compare(work, expected)
        say(f'kill {number}: {first}; {second}: ends the same')
    for name in filter(only.__contains__, ENDS_LIKE):
        work = folder / name
        said = ENDS_LIKE[name](config, work, chance)
        finish(config, work)
        compare(work, expected)
        say(f'{name}: {said}: ends the same')
    for name in filter(only.__contains__, OF_RANKS):
        say(f'{name}: {OF_RANKS[name](config, folder / name, chance)}: nobody is left')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=20, metavar='N', help='runs that are killed; default: 20')
    parser.add_argument('--only', nargs='+', choices=ALL, default=ALL, help='parts of the drill; default: all')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of the random moments; default: 0')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix='fault_drill_') as folder:
        try:
            drill(Path(folder), args.kills, tuple(args.only), args.seed)
        except DrillError as error:
            print(f'FAILED: {error}', file=sys.stderr)
            kept = shutil.copytree(folder, tempfile.mkdtemp(prefix='fault_drill_failed_'), dirs_exist_ok=True)
            print(f'all of it is kept in {kept}', file=sys.stderr)
            return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())

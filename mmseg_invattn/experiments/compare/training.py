"""Trains one run with ``mmseg-invattn train``, and continues an earlier attempt."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from ...engine.atomic_backend import whole_file
from ...engine.checkpoints import read_checkpoint
from ...engine.resume import find_resume_checkpoint
from .environment import environment
from .folder import read_json, write_json
from .plan import Run
from .process import ProcessFailedError


def begin(run: Run) -> None:
    """Create the folder of a run, and record when and where it was started."""
    here = environment()
    run.folder.mkdir(parents=True, exist_ok=True)
    known = read_json(run.folder / 'run.json') or dict(
        config=run.source, name=run.name, seed=run.seed, fingerprint=run.fingerprint, starts=[]
    )
    known['starts'].append(here)
    write_json(run.folder / 'run.json', known)
    (run.folder / 'failed.json').unlink(missing_ok=True)
    run.config.parent.mkdir(exist_ok=True)
    with whole_file(run.config) as partial:
        run.cfg.dump(partial)


def train(run: Run, processes: int | None, say: Callable[[str], None], launch: Callable[..., int]) -> None:
    """Train to the end and write ``trained.json``; does nothing if weights are given.

    Args:
        run: the run, whose folder exists.
        processes: number of processes of a distributed training on this machine; None for one without distribution.
        say: function that is called with each line of progress.
        launch: :func:`run_process`, with the environment of the process already set.

    Raises:
        ProcessFailedError: the training failed, or left no checkpoint of its last iteration.
    """
    if run.checkpoint is not None:
        write_json(run.folder / 'trained.json', dict(checkpoint=str(run.checkpoint.resolve())))
        return
    start, launcher = [sys.executable, '-m'], []
    if processes is not None:
        start += ['mmseg_invattn.cli.distributed', '--standalone', f'--nproc_per_node={processes}', '-m']
        launcher = ['--launcher', 'pytorch']
    command = [*start, 'mmseg_invattn.cli', 'train', str(run.config), '--work-dir', str(run.folder), '--resume']
    command += launcher
    memory = launch(command, run.folder / 'output.log', say)
    path = find_resume_checkpoint(run.folder, run.cfg.get('default_hooks', {}).get('checkpoint'))
    if path is None:
        raise ProcessFailedError('the training wrote no checkpoint: its config needs a checkpoint hook', [])
    iteration, expected = read_checkpoint(path, mmap=True)['meta'].get('iter'), run.cfg.train_cfg.get('max_iters')
    if expected is not None and iteration != expected:
        raise ProcessFailedError(
            f'its last checkpoint is from iteration {iteration} of {expected}: set '
            'default_hooks.checkpoint.save_last=True',
            [],
        )
    inside = Path(path).parent.absolute() == run.folder.absolute()
    write_json(run.folder / 'trained.json', dict(checkpoint=Path(path).name if inside else path, resident_bytes=memory))


def checkpoint_of(folder: Path) -> Path:
    """The checkpoint of a run. One that the run has trained is looked up in its folder, which may have been moved."""
    return folder / read_json(folder / 'trained.json')['checkpoint']

"""Runs a comparison: trains and evaluates every run, even if others fail, and writes the report."""

from __future__ import annotations

import math
import shutil
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from ...datasets.checks import check_data_folders
from ...engine.folder_lock import locked
from ...wording import counted
from ..doc_table import around_table
from .environment import device_name
from .evaluation import ignored_label
from .folder import check_folder, read_json, run_folders, write_json
from .jobs import shared_cores, work_on_all
from .joined import joined
from .pairing import unpaired
from .pictures import pictures
from .plan import Run, by_baseline, plan_runs
from .process import Processes, ProcessFailedError, run_process
from .report import write_reports
from .summary import summarise
from .training import begin, train

_BEGINNING = threading.Lock()  # configs are written by yapf, which is not thread-safe


def compare(args: Namespace) -> int:
    """Run the comparison that the command line asks for.

    Args:
        args: arguments of the command.

    Returns:
        Exit status: 1 if a run has failed.

    Raises:
        FileNotFoundError: a config, a checkpoint or the data are missing.
        ValueError: an argument breaks its rule, ``out`` holds other files, or another process works there.
    """
    if args.doc is not None:
        around_table(args.doc)
    if args.margin is not None and not 0 < args.margin < math.inf:
        raise ValueError(f'--margin is {args.margin}, but must be above 0: it is the loss of mIoU that is tested for')
    if args.results is not None:
        return _report_again(args)
    distributed = _distributed(args)
    if args.jobs < 1:
        raise ValueError(f'--jobs is {args.jobs}, but must be at least 1')
    runs = plan_runs(args.configs, args.seeds, args.out, args.cfg_options, args.checkpoints)
    baseline = Path(args.baseline or args.configs[0]).stem
    if baseline not in {run.name for run in runs}:
        raise ValueError(f'--baseline {args.baseline} is not one of the configs: add it to the list of configs')
    control = None if args.control is None else Path(args.control).stem
    if control is not None and control not in {run.name for run in runs}:
        raise ValueError(f'--control {args.control} is not one of the configs: add it to the list of configs')
    if args.margin is not None and len(args.seeds) < 2:
        raise ValueError(f'--margin {args.margin} needs an interval, and so at least two seeds: --seeds 0 1')
    for run in runs[: len(args.configs)]:
        check_data_folders(run.cfg, ('test',) if args.checkpoints else ('train', 'val', 'test'))
    check_folder(args.out, runs, args.resume, args.overwrite)
    with locked(args.out, '--out') as lock, shared_cores(args.jobs):
        if args.overwrite:
            for folder in {folder.parent for folder in run_folders(args.out)}:
                shutil.rmtree(folder)
        for reason in unpaired(by_baseline(runs, baseline)):
            print(f'Runs with the same seed are not paired: {reason}', flush=True)
        processes = Processes()
        launch = partial(run_process, keep_open=[lock], processes=processes)

        def work(item: tuple[int, Run], settings: Mapping[str, str]) -> None:
            number, run = item
            _work_on(run, distributed, f'[{number}/{len(runs)}] {run.title}', partial(launch, settings=settings))

        work_on_all(list(enumerate(runs, 1)), args.jobs, work, processes)
        done: dict[str, Run] = {}  # the first seed of every head
        for run in runs:
            if (run.folder / 'evaluation.json').is_file():
                done.setdefault(run.name, run)
        speed = _speed(args.out, done, launch) if done else None
        results = summarise(runs, baseline, args.cfg_options, speed, args.margin, control)
        labels = {head['name']: head['label'] for head in results['heads']}
        shown = {labels[name]: done[name] for name in labels if name in done}
        write_reports(args.out, results, pictures(shown, ignored_label(runs[0].cfg)), args.doc)
    failed = [run for run in runs if (run.folder / 'failed.json').is_file()]
    print(f'report: {args.out / "report.html"}', flush=True)
    for run in failed:
        print(f'failed: {run.title}: {read_json(run.folder / "failed.json")["message"]}', flush=True)
    return 1 if failed else 0


def _work_on(run: Run, distributed: int | None, title: str, launch: Callable) -> None:
    """Do what is left of training and evaluating one run. A failure is recorded and does not stop other runs."""

    def say(line: str) -> None:
        print(f'{title}: {line}\n', end='', flush=True)  # one write, so that lines of two threads do not mix

    if (run.folder / 'evaluation.json').is_file():
        say('done already')
        return
    with _BEGINNING:
        begin(run)
    step = 'training'
    try:
        if not (run.folder / 'trained.json').is_file():
            say('training' if run.checkpoint is None else f'given {run.checkpoint}')
            train(run, distributed, say, launch)
        step = 'evaluation'
        say('evaluating')
        command = [sys.executable, '-m', 'mmseg_invattn.experiments.compare.evaluation', str(run.folder)]
        launch(command, run.folder / 'output.log', say)
        say(f'done, mIoU {read_json(run.folder / "evaluation.json")["miou"]:.2f}')
    except ProcessFailedError as error:
        write_json(run.folder / 'failed.json', dict(message=f'{step} {error}', tail=error.tail))
        say(f'FAILED: {step} {error}' + ''.join(f'\n    {line}' for line in error.tail[-5:]))


def _speed(out: Path, done: Mapping[str, Run], launch: Callable) -> dict | None:
    """Latency and throughput of all heads; measured together, unless that was done for the same runs on this device."""
    identity = dict(device=device_name(), runs={name: run.fingerprint for name, run in done.items()})
    known = read_json(out / 'speed.json')
    if known and known['of'] == identity:
        return known
    print(f'measuring the speed of {counted(len(done), "head")}', flush=True)
    fresh = out / '.speed.part'
    command = [sys.executable, '-m', 'mmseg_invattn.experiments.compare.speed', str(fresh)]
    try:
        launch(command + [f'{name}={run.folder}' for name, run in done.items()], out / 'speed.log', print)
    except ProcessFailedError as error:  # the report shows dashes
        print(f'the measurement of speed {error}: ' + '\n    '.join(error.tail[-5:]), flush=True)
        return None
    write_json(out / 'speed.json', dict(read_json(fresh), of=identity))
    fresh.unlink()
    found = read_json(out / 'speed.json')
    for name, head in found['heads'].items():
        if 'error' in head:
            print(f'the speed of {name} could not be measured: {head["error"]}', flush=True)
    return found


def _report_again(args: Namespace) -> int:
    """Write the report of existing results, without pictures; those of several files become one."""
    files = []
    for path in args.results:
        files.append((str(path), read_json(path)))
        if files[-1][1] is None:
            raise FileNotFoundError(f'--results {path}: there is no such file')
    results = joined(files, args.margin)
    if run_folders(args.out):
        raise ValueError(f'--out {args.out} holds the runs of a comparison: give another --out')
    if (args.out / 'report.html').exists() and not args.overwrite:
        raise ValueError(f'--out {args.out} holds a report: give another --out, or --overwrite to replace it')
    args.out.mkdir(parents=True, exist_ok=True)
    write_reports(args.out, results, [], args.doc)
    print(f'report: {args.out / "report.html"}', flush=True)
    return 0


def _distributed(args: Namespace) -> int | None:
    """Number of processes of each training; None if it is not distributed."""
    if args.launcher == 'none':
        if args.processes is not None:
            raise ValueError(f'--processes {args.processes} is for distributed training: add --launcher pytorch')
        return None
    if args.jobs > 1:
        raise ValueError(
            f'--jobs {args.jobs} with --launcher {args.launcher}: a distributed training uses all devices, so runs '
            'cannot run at the same time; leave out one of the two options'
        )
    processes = torch.cuda.device_count() if args.processes is None else args.processes
    if processes < 1:
        raise ValueError(
            '--launcher pytorch without a GPU needs a number of processes: --processes 2'
            if args.processes is None
            else f'--processes is {processes}, but must be at least 1'
        )
    return processes

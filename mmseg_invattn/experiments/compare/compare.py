"""The course of a comparison: every run trained and evaluated, whatever becomes of the others, then the report."""

from __future__ import annotations

import shutil
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import torch

from ...datasets.checks import check_data_folders
from ...wording import counted
from .environment import device_name
from .evaluation import ignored_label
from .folder import check_folder, locked, read_json, run_folders, write_json
from .pictures import pictures
from .plan import Run, plan_runs
from .process import ProcessFailedError, run_process
from .report import write_reports
from .summary import summarise
from .training import begin, train


def compare(args: Namespace) -> int:
    """Carry out what the command was asked for.

    Args:
        args: its arguments.

    Returns:
        Exit status: 1 where a run has failed.

    Raises:
        FileNotFoundError: a config, a checkpoint or the data are missing.
        ValueError: an argument breaks its rule, or ``out`` holds something else.
    """
    processes = _processes(args)
    runs = plan_runs(args.configs, args.seeds, args.out, args.cfg_options, args.checkpoints)
    baseline = Path(args.baseline or args.configs[0]).stem
    if baseline not in {run.name for run in runs}:
        raise ValueError(f'--baseline {args.baseline} is none of the configs: name it among them as well')
    for run in runs[: len(args.configs)]:
        check_data_folders(run.cfg, ('test',) if args.checkpoints else ('train', 'val', 'test'))
    check_folder(args.out, runs, args.resume, args.overwrite)
    with locked(args.out) as lock:
        if args.overwrite:
            for folder in {folder.parent for folder in run_folders(args.out)}:
                shutil.rmtree(folder)
        for number, run in enumerate(runs, 1):
            _work_on(run, processes, f'[{number}/{len(runs)}] {run.title}', lock)
        done: dict[str, Run] = {}  # the first seed of every head
        for run in runs:
            if (run.folder / 'evaluation.json').is_file():
                done.setdefault(run.name, run)
        speed = _speed(args.out, done, lock) if done else None
        results = summarise(runs, baseline, args.cfg_options, speed)
        labels = {head['name']: head['label'] for head in results['heads']}
        shown = {labels[name]: done[name] for name in labels if name in done}
        write_reports(args.out, results, pictures(shown, ignored_label(runs[0].cfg)))
    failed = [run for run in runs if (run.folder / 'failed.json').is_file()]
    print(f'report: {args.out / "report.html"}', flush=True)
    for run in failed:
        print(f'failed: {run.title}: {read_json(run.folder / "failed.json")["message"]}', flush=True)
    return 1 if failed else 0


def _work_on(run: Run, processes: int | None, title: str, lock: int) -> None:
    """Train and evaluate one run as far as that is not done; a failure is noted, and is not one of the others."""

    def say(line: str) -> None:
        print(f'{title}: {line}', flush=True)

    if (run.folder / 'evaluation.json').is_file():
        say('done already')
        return
    begin(run)
    step = 'training'
    try:
        if not (run.folder / 'trained.json').is_file():
            say('training' if run.checkpoint is None else f'given {run.checkpoint}')
            train(run, processes, say, [lock])
        step = 'evaluation'
        say('evaluating')
        run_process(
            [sys.executable, '-m', 'mmseg_invattn.experiments.compare.evaluation', str(run.folder)],
            run.folder / 'output.log',
            say,
            [lock],
        )
        say(f'done, mIoU {read_json(run.folder / "evaluation.json")["miou"]:.2f}')
    except ProcessFailedError as error:
        write_json(run.folder / 'failed.json', dict(message=f'{step} {error}', tail=error.tail))
        say(f'FAILED: {step} {error}' + ''.join(f'\n    {line}' for line in error.tail[-5:]))


def _speed(out: Path, done: Mapping[str, Run], lock: int) -> dict | None:
    """Latency and throughput of all heads, measured side by side unless that was done for these very runs here."""
    identity = dict(device=device_name(), runs={name: run.fingerprint for name, run in done.items()})
    known = read_json(out / 'speed.json')
    if known and known['of'] == identity:
        return known
    print(f'measuring the speed of {counted(len(done), "head")}', flush=True)
    fresh = out / '.speed.part'
    command = [sys.executable, '-m', 'mmseg_invattn.experiments.compare.speed', str(fresh)]
    try:
        run_process(command + [f'{name}={run.folder}' for name, run in done.items()], out / 'speed.log', print, [lock])
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


def _processes(args: Namespace) -> int | None:
    """Processes of each training; None: it is not distributed."""
    if args.launcher == 'none':
        if args.processes is not None:
            raise ValueError(f'--processes {args.processes} is for distributed training: add --launcher pytorch')
        return None
    processes = torch.cuda.device_count() if args.processes is None else args.processes
    if processes < 1:
        raise ValueError(
            '--launcher pytorch without a GPU needs a number of processes: --processes 2'
            if args.processes is None
            else f'--processes {processes}: at least 1'
        )
    return processes

"""One table of several runs of classification, from what tools/train.py leaves in their work directories."""

import re
from pathlib import Path
from statistics import median

from ...engine.checkpoints import read_checkpoint
from ...engine.scalars import read_run as read_curves

BUFFERS = ('running_mean', 'running_var', 'num_batches_tracked')


def read_run(work_dir: Path) -> dict:
    """Name, parameters, iterations, last accuracies in per cent and seconds an iteration of a run.

    Raises:
        FileNotFoundError: no log or no checkpoint.
        ValueError: the log has no accuracy: the run was stopped before its first validation.
    """
    curves = read_curves(work_dir).curves
    checkpoints = sorted(work_dir.glob('iter_*.pth'), key=lambda path: int(re.findall(r'\d+', path.stem)[-1]))
    if not checkpoints:
        raise FileNotFoundError(
            f'{work_dir} holds no checkpoint iter_*.pth: give the work directory of a run of tools/train.py'
        )
    if 'accuracy/top1' not in curves:
        raise ValueError(
            f'the log in {work_dir} has no accuracy/top1: the run was stopped before its first '
            'validation, or does not classify'
        )
    accuracy = curves['accuracy/top1']
    state = read_checkpoint(checkpoints[-1], map_location='cpu')['state_dict']
    steps = dict(zip(curves['time'].steps, curves['time'].values, strict=True))
    return dict(
        name=work_dir.name,
        iterations=accuracy.steps[-1],
        parameters=sum(t.numel() for name, t in state.items() if not name.endswith(BUFFERS)),
        accuracy=accuracy.values[-1],
        seconds=median(steps[step] for step in curves['loss'].steps),
    )


def markdown_table(runs: list[dict]) -> str:
    """The runs as lines of a table in Markdown."""
    lines = ['| network | parameters | iterations | accuracy, % | seconds an iteration |', '|' + ' --- |' * 5]
    lines += [
        f'| {run["name"]} | {run["parameters"]:,} | {run["iterations"]} | {run["accuracy"]:.1f} | '
        f'{run["seconds"]:.2f} |'
        for run in runs
    ]
    return '\n'.join(lines)

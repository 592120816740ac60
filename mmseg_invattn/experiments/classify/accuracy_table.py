"""One table of several classification runs, from the files that tools/train.py writes to their work directories."""

import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean, median

from ...engine.checkpoints import read_checkpoint
from ...engine.scalars import read_run as read_curves

BUFFERS = ('running_mean', 'running_var', 'num_batches_tracked')


def read_run(work_dir: Path) -> dict:
    """Name, parameters, iterations, last accuracy in per cent and seconds per iteration of a run.

    The name is that of the folder; for ``NAME/seed_3`` it is ``NAME``.

    Raises:
        FileNotFoundError: no log or no checkpoint.
        ValueError: the log has no accuracy: the run was stopped before its first validation.
    """
    curves = read_curves(work_dir).curves
    checkpoints = sorted(work_dir.glob('iter_*.pth'), key=lambda path: int(re.findall(r'\d+', path.stem)[-1]))
    if not checkpoints:
        raise FileNotFoundError(
            f'{work_dir} has no checkpoint iter_*.pth: give the work directory of a run of tools/train.py'
        )
    if 'accuracy/top1' not in curves:
        raise ValueError(
            f'the log in {work_dir} has no accuracy/top1: the run was stopped before its first '
            'validation, or it is not a classification run'
        )
    accuracy = curves['accuracy/top1']
    state = read_checkpoint(checkpoints[-1], map_location='cpu')['state_dict']
    steps = dict(zip(curves['time'].steps, curves['time'].values, strict=True))
    return dict(
        name=work_dir.parent.name if re.fullmatch(r'seed_\d+', work_dir.name) else work_dir.name,
        iterations=accuracy.steps[-1],
        parameters=sum(t.numel() for name, t in state.items() if not name.endswith(BUFFERS)),
        accuracy=accuracy.values[-1],
        seconds=median(steps[step] for step in curves['loss'].steps),
    )


def markdown_table(runs: list[dict]) -> str:
    """The runs as a Markdown table; runs of the same network and length share a line."""
    groups = defaultdict(list)
    for run in runs:
        groups[run['name'], run['parameters'], run['iterations']].append(run)
    lines = ['| network | parameters | iterations | runs | accuracy, % | seconds per iteration |', '|' + ' --- |' * 6]
    for (name, parameters, iterations), group in groups.items():
        accuracies = [run['accuracy'] for run in group]
        accuracy = f'{fmean(accuracies):.1f}'
        if len(group) > 1:
            accuracy += f' ({min(accuracies):.1f} to {max(accuracies):.1f})'
        seconds = median(run['seconds'] for run in group)
        lines.append(f'| {name} | {parameters:,} | {iterations} | {len(group)} | {accuracy} | {seconds:.2f} |')
    return '\n'.join(lines)

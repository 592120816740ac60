"""One table of several runs of classification, from what tools/train.py leaves in their work directories."""
import json
import re
from pathlib import Path
from statistics import median

from ..compat import read_checkpoint

BUFFERS = ('running_mean', 'running_var', 'num_batches_tracked')


def read_run(work_dir: Path) -> dict:
    """Name, parameters, iterations, last accuracies in per cent and seconds an iteration of a run.

    Raises:
        FileNotFoundError: no log or no checkpoint.
        ValueError: the log has no accuracy: the run was stopped before its first validation.
    """
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    checkpoints = sorted(work_dir.glob('iter_*.pth'), key=lambda path: int(re.findall(r'\d+', path.stem)[-1]))
    if not logs or not checkpoints:
        missing = 'checkpoint iter_*.pth' if logs else 'log */vis_data/scalars.json'
        raise FileNotFoundError(f'{work_dir} holds no {missing}: give the work directory of a run of tools/train.py')
    lines = [json.loads(line) for line in logs[-1].read_text(encoding='utf-8').splitlines()]
    found = [line for line in lines if 'accuracy/top1' in line]
    if not found:
        raise ValueError(f'{logs[-1]} has no accuracy/top1: the run was stopped before its first validation, or does '
                         'not classify')
    state = read_checkpoint(checkpoints[-1], map_location='cpu')['state_dict']
    return dict(name=work_dir.name, iterations=found[-1]['step'],
                parameters=sum(t.numel() for name, t in state.items() if not name.endswith(BUFFERS)),
                accuracy=found[-1]['accuracy/top1'], seconds=median(line['time'] for line in lines if 'loss' in line))


def markdown_table(runs: list[dict]) -> str:
    """The runs as lines of a table in Markdown."""
    lines = ['| network | parameters | iterations | accuracy, % | seconds an iteration |', '|' + ' --- |' * 5]
    lines += [f'| {run["name"]} | {run["parameters"]:,} | {run["iterations"]} | {run["accuracy"]:.1f} | '
              f'{run["seconds"]:.2f} |' for run in runs]
    return '\n'.join(lines)

"""Bits per dimension of several runs of a flow against the iterations, as one picture and one table.

    python tools/analysis/flow_curves.py work_dirs/invresnet work_dirs/invresnet_certified_embedded_gaussian
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure


def read_curves(folder: Path) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """(iteration, bits per dimension) of the training batches and of the validations of one run.

    Raises:
        FileNotFoundError: the folder holds no log of a flow.
    """
    rows = [json.loads(line) for path in sorted(folder.rglob('scalars.json'))
            for line in path.read_text(encoding='utf-8').splitlines()]
    train = [(row['step'], row['loss']) for row in rows if 'loss' in row]
    val = [(row['step'], row['flow/bits_per_dim']) for row in rows if 'flow/bits_per_dim' in row]
    if not train or not val:
        raise FileNotFoundError(f'{folder} holds no scalars.json with losses and flow/bits_per_dim: give the work '
                                'directory of tools/train.py with a config of configs/flow')
    return train, val


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', type=Path, help='work directories')
    parser.add_argument('--out', type=Path, default=Path('bits_per_dim.png'), help='PNG file to write')
    args = parser.parse_args()
    figure = Figure(figsize=(6, 3.5), layout='constrained')
    axes = figure.add_subplot()
    print('| run | ' + ' | '.join(f'after {step}' for step, _ in read_curves(args.runs[0])[1]) + ' |')
    print('| --- ' * (1 + len(read_curves(args.runs[0])[1])) + '|')
    for i, run in enumerate(args.runs):
        train, val = read_curves(run)
        axes.plot(*zip(*train, strict=True), ':', color=f'C{i}', label=f'{run.name}, training')
        axes.plot(*zip(*val, strict=True), 'o-', color=f'C{i}', label=f'{run.name}, test images')
        print(f'| {run.name} | ' + ' | '.join(f'{bits:.3f}' for _, bits in val) + ' |')
    axes.set(xlabel='iterations', ylabel='bits per dimension')
    axes.legend(fontsize='small')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=100)


if __name__ == '__main__':
    main()

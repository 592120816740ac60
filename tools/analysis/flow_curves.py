"""Bits per dimension of several runs of a flow against the iterations, as one picture and one table.

python tools/analysis/flow_curves.py work_dirs/cifar10_small work_dirs/cifar10_small_certified_embedded_gaussian
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmseg_invattn') is None:  # not installed: run from the checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from matplotlib.figure import Figure

from mmseg_invattn.engine.scalars import Curve, read_runs

BITS = 'flow/bits_per_dim'


def bits_table(runs: dict[str, Curve]) -> str:
    """A Markdown table of the validations, one line a run; a run has no entry where it was not validated."""
    steps = sorted({step for curve in runs.values() for step in curve.steps})
    lines = ['| run | ' + ' | '.join(f'after {step}' for step in steps) + ' |', '| --- ' * (1 + len(steps)) + '|']
    for name, curve in runs.items():
        bits = dict(zip(curve.steps, curve.values, strict=True))
        lines.append(f'| {name} | ' + ' | '.join(f'{bits[step]:.3f}' if step in bits else '' for step in steps) + ' |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', type=Path, help='work directories')
    parser.add_argument('--out', type=Path, default=Path('bits_per_dim.png'), help='PNG file to write')
    args = parser.parse_args()
    runs = read_runs(args.runs)
    figure = Figure(figsize=(6, 3.5), layout='constrained')
    axes = figure.add_subplot()
    for i, run in enumerate(runs):
        if 'loss' not in run.curves or BITS not in run.curves:
            raise ValueError(
                f'{args.runs[i]}: the run has logged no loss or no {BITS}; give the work directory of '
                'tools/train.py with a config of configs/flow'
            )
        loss, bits = run.curves['loss'], run.curves[BITS]
        axes.plot(loss.steps, loss.values, ':', color=f'C{i}', label=f'{run.name}, training')
        axes.plot(bits.steps, bits.values, 'o-', color=f'C{i}', label=f'{run.name}, test images')
    axes.set(xlabel='iterations', ylabel='bits per dimension')
    axes.legend(fontsize='small')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=100)
    print(bits_table({run.name: run.curves[BITS] for run in runs}))


if __name__ == '__main__':
    main()

"""Show the bits per dimension of several runs of a flow during training, as one picture and one table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..output import add_output_arguments, refuse_existing
from ..parser import CommandParser

if TYPE_CHECKING:
    from ...engine.scalars import Curve

BITS = 'flow/bits_per_dim'


def bits_table(runs: dict[str, Curve]) -> str:
    """A Markdown table of the validations, one line per run; cells are empty if there was no validation."""
    steps = sorted({step for curve in runs.values() for step in curve.steps})
    lines = ['| run | ' + ' | '.join(f'after {step}' for step in steps) + ' |', '| --- ' * (1 + len(steps)) + '|']
    for name, curve in runs.items():
        bits = dict(zip(curve.steps, curve.values, strict=True))
        lines.append(f'| {name} | ' + ' | '.join(f'{bits[step]:.3f}' if step in bits else '' for step in steps) + ' |')
    return '\n'.join(lines)


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'work_dirs/plain work_dirs/attention')
    parser.add_argument(
        'runs', nargs='+', type=Path, metavar='RUN', help='work directory of a training, or a file of its scalars'
    )
    add_output_arguments(parser, 'PNG file to write', 'bits_per_dim.png')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    from ...engine.scalars import read_runs
    from ...visualization.figures import new_figure, save_figure

    refuse_existing([args.out], args.overwrite)
    runs = read_runs(args.runs)
    figure = new_figure(8, 4.5)
    axes = figure.subplots()
    for i, run in enumerate(runs):
        if BITS not in run.curves:
            raise ValueError(
                f'{args.runs[i]}: the log has no {BITS}: give the work directory of a training with a config from '
                'configs/flow, after its first validation'
            )
        bits, loss = run.curves[BITS], run.curves.get('loss')
        if loss:
            axes.plot(loss.steps, loss.values, ':', color=f'C{i}', label=f'{run.name}, training batches')
        label = f'{run.name}, test images: {bits.values[-1]:.3f} after {bits.steps[-1]} iterations'
        axes.plot(bits.steps, bits.values, 'o-', color=f'C{i}', label=label)
    axes.set(xlabel='iteration', ylabel='bits per dimension (less is better)')
    axes.grid(alpha=0.3)
    axes.legend(fontsize='small')
    save_figure(figure, args.out)
    print(bits_table({run.name: run.curves[BITS] for run in runs}))

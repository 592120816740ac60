"""Memory that training a flow takes: measured at small batches, extrapolated by a straight line to a larger one.

python tools/analysis/flow_memory.py configs/flow/cifar10.py --form certified --batches 2 16
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmseg_invattn') is None:  # not installed: run from the checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmseg_invattn.cli.arguments import add_attention_arguments, add_config_arguments, read_config
from mmseg_invattn.experiments.flow.training_memory import GIB, extrapolate, step_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    add_attention_arguments(parser)
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 3], help='batches to measure')
    parser.add_argument('--target', type=int, default=64, help='batch to extrapolate to')
    args = parser.parse_args()
    cfg = read_config(args)
    print(
        '| activations | '
        + ' | '.join(f'batch {b}, measured' for b in args.batches)
        + f' | per image | batch {args.target}, extrapolated |'
    )
    print('| --- ' * (len(args.batches) + 3) + '|')
    for name, memory_free in (('recovered', True), ('stored', False)):
        memory = [step_memory(cfg, batch, memory_free) for batch in args.batches]
        fixed, slope = extrapolate(args.batches, memory, args.target)
        cells = [
            name,
            *(f'{m / GIB:.2f} GiB' for m in memory),
            f'{slope / GIB:.3f} GiB',
            f'{(fixed + slope * args.target) / GIB:.1f} GiB',
        ]
        print('| ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
    main()

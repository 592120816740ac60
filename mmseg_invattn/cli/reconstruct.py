"""Train one attention block and see whether test images come back through it: the paper's check of invertibility.

    python tools/reconstruct.py configs/reconstruction/cifar10/certified_l2.py --out work_dirs/reconstruction
    python tools/reconstruct.py configs/reconstruction/cifar10/*.py --out work_dirs/reconstruction
    python tools/reconstruct.py --summary work_dirs/reconstruction

Every config gets a folder OUT/<data set>/<config> with logs, checkpoint, result.json, per_image.csv, grid.png and
convergence.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..engine.launch import leave_distributed
from ..experiments.doc_table import replace_table
from ..experiments.reconstruct.run import run_reconstruction
from ..experiments.reconstruct.table import read_results, reconstruction_table
from .arguments import add_common_arguments, load_config


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='config files, trained one after the other')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/reconstruction'), help='folder of the results')
    parser.add_argument('--epochs', type=float, help="train for so many epochs instead of the config's")
    parser.add_argument('--summary', type=Path, metavar='DIR', help='print one table of all results below DIR')
    parser.add_argument(
        '--doc',
        type=Path,
        metavar='FILE',
        help='with --summary: put the table between <!-- table --> and <!-- end --> of this file',
    )
    add_common_arguments(parser)
    args = parser.parse_args(arguments)
    if not args.configs and args.summary is None:
        parser.error('give a CONFIG to run, or --summary DIR to put the results of earlier runs into a table')
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    for config in args.configs:
        args.config = config
        name = Path(config)
        out = args.out / name.parent.name / name.stem
        args.work_dir = str(out)
        cfg = load_config(args, ('train', 'test'))
        if args.epochs is not None:
            cfg.train_cfg.max_iters = max(1, round(args.epochs * cfg.epoch_length))
        run_reconstruction(cfg, out, dataset=name.parent.name)
    leave_distributed()
    if args.summary is not None:
        table = reconstruction_table(read_results(args.summary))
        print(table)
        if args.doc is not None:
            replace_table(args.doc, table)

"""Train one attention block and see whether test images come back through it: the paper's check of invertibility.

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
from .arguments import add_cfg_options, add_run_arguments, load_config
from .output import add_output_arguments, refuse_existing
from .parser import CommandParser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'CONFIG --out work_dirs/reconstruction', '--summary work_dirs/reconstruction')
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='config files, trained one after the other')
    add_output_arguments(parser, 'folder of the results', 'work_dirs/reconstruction', folder=True)
    parser.add_argument('--epochs', type=float, metavar='N', help="epochs of the training; default: the config's")
    parser.add_argument(
        '--summary', type=Path, metavar='DIR', help='print one table of all results below DIR; default: none'
    )
    parser.add_argument(
        '--doc',
        type=Path,
        metavar='FILE',
        help='with --summary: put the table between <!-- table --> and <!-- end --> of this file; default: none',
    )
    add_cfg_options(parser)
    add_run_arguments(parser, work_dir=False)
    args = parser.parse_args(arguments)
    if not args.configs and args.summary is None:
        parser.error('give a CONFIG to run, or --summary DIR to put the results of earlier runs into a table')
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    folders = {config: args.out / Path(config).parent.name / Path(config).stem for config in args.configs}
    refuse_existing(folders.values(), args.overwrite)
    for config, out in folders.items():
        args.config, args.work_dir = config, str(out)
        cfg = load_config(args, ('train', 'test'))
        if args.epochs is not None:
            cfg.train_cfg.max_iters = max(1, round(args.epochs * cfg.epoch_length))
        run_reconstruction(cfg, out, dataset=out.parent.name)
    leave_distributed()
    if args.summary is not None:
        table = reconstruction_table(read_results(args.summary))
        print(table)
        if args.doc is not None:
            replace_table(args.doc, table)

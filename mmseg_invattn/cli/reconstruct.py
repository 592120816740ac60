"""Train one attention block and test whether its inverse recovers test images: the paper's check of invertibility.

The results of each config with each form and mode go to OUT/CONFIG/FORM_MODE: config, logs, checkpoint, result.json,
per_image.csv, grid.png and convergence.png.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

from ..choices import INVERTIBLE_FORMS, MODES
from .arguments import add_cfg_options, add_run_arguments, load_config, read_config
from .output import add_output_arguments, refuse_existing
from .parser import CommandParser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(
        __doc__,
        'CONFIG --form certified --mode l2 --out results',
        'CONFIG --form all --mode all',
        '--summary work_dirs/reconstruction',
    )
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='config files, trained one after the other')
    for name, choices in (('form', INVERTIBLE_FORMS), ('mode', MODES)):
        parser.add_argument(
            f'--{name}',
            nargs='+',
            choices=[*choices, 'all'],
            help=f'{name}s of the attention; each is trained separately; default: as in the config',
        )
    add_output_arguments(parser, 'folder for the results', 'work_dirs/reconstruction', folder=True)
    parser.add_argument('--epochs', type=float, metavar='N', help='epochs of training; default: as in the config')
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
        parser.error('give a CONFIG to run, or --summary DIR for a table of the results of earlier runs')
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    from ..engine.launch import leave_distributed
    from ..engine.run_folders import folders_of_run
    from ..experiments.attention_choice import attention_name
    from ..experiments.doc_table import around_table, replace_table
    from ..experiments.reconstruct.run import run_reconstruction
    from ..experiments.reconstruct.table import read_results, reconstruction_table

    if args.doc is not None:
        around_table(args.doc)
    forms, modes = (
        list(every) if 'all' in chosen else chosen
        for chosen, every in ((args.form or [None], INVERTIBLE_FORMS), (args.mode or [None], MODES))
    )
    runs = {}
    for config, form, mode in product(args.configs, forms, modes):
        args.config, args.form, args.mode = config, form, mode
        runs[args.out / Path(config).stem / attention_name(read_config(args))] = config, form, mode
    refuse_existing(runs, args.overwrite)
    for out, chosen in runs.items():
        args.config, args.form, args.mode = chosen
        args.work_dir = str(out)
        cfg = load_config(args, ('train', 'test'))
        if args.epochs is not None:
            cfg.train_cfg.max_iters = max(1, round(args.epochs * cfg.epoch_length))
        with folders_of_run(cfg, '--out'):
            run_reconstruction(cfg, out, dataset=out.parent.name)
    leave_distributed()
    if args.summary is not None:
        table = reconstruction_table(read_results(args.summary))
        print(table)
        if args.doc is not None:
            replace_table(args.doc, table)

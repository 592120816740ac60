"""Show which classes a model confuses, as a picture and as tables.

It evaluates a checkpoint on the test data, or reads a matrix (.npy or .csv) that SegMetric wrote.

It writes confusion_matrix.csv with numbers of pixels, confusion_matrix_rows.csv with the shares of each row in
per cent (not with --counts), and the picture. Rows are the ground truth.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from ...choices import MATRIX_SUFFIXES
from ..arguments import add_cfg_options, add_run_arguments, load_config
from ..output import add_output_arguments, refuse_existing
from ..parser import CommandParser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'CONFIG CHECKPOINT --out confusion', 'matrix.csv --out confusion')
    parser.add_argument('config', metavar='CONFIG', help='config file, or a file with a matrix')
    parser.add_argument(
        'checkpoint', nargs='?', metavar='CHECKPOINT', help='checkpoint file; default: none, with a matrix'
    )
    add_output_arguments(parser, 'folder for the results', folder=True, required=True)
    parser.add_argument('--format', choices=('png', 'svg', 'pdf'), default='png', help='format of the picture')
    parser.add_argument('--counts', action='store_true', help='draw pixels instead of shares of each row')
    add_cfg_options(parser)
    add_run_arguments(parser)
    args = parser.parse_args(arguments)
    if args.config.endswith(MATRIX_SUFFIXES) == bool(args.checkpoint):
        parser.error('give CONFIG CHECKPOINT, or only a file with a matrix (.npy, .csv)')
    return args


def evaluate(args: argparse.Namespace, file: Path) -> None:
    """Runs the model on the test data; SegMetric writes the matrix."""
    from ...engine.launch import build_test_runner, check_checkpoint_file, leave_distributed

    check_checkpoint_file(args.checkpoint)
    cfg = load_config(args, ('test',))
    cfg.test_evaluator = dict(type='SegMetric', confusion_file=str(file))
    build_test_runner(cfg, args.checkpoint).test()
    leave_distributed()


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    from ...engine.atomic_backend import whole_file
    from ...evaluation.confusion import read_confusion, row_shares, write_confusion
    from ...visualization.confusion_plot import draw_confusion

    counts, rows = args.out / 'confusion_matrix.csv', args.out / 'confusion_matrix_rows.csv'
    picture = args.out / f'confusion_matrix.{args.format}'
    refuse_existing([counts, picture] + [rows] * (not args.counts), args.overwrite)
    if args.checkpoint:
        evaluate(args, counts)
        matrix, classes = read_confusion(counts)
    else:
        matrix, classes = read_confusion(args.config)
        write_confusion(counts, matrix, classes)
    if not args.counts:
        with whole_file(rows) as partial, open(partial, 'w', newline='', encoding='utf-8') as stream:
            writer = csv.writer(stream)
            writer.writerow(['truth \\ prediction', *classes])
            writer.writerows(
                [name, *np.round(row, 3)] for name, row in zip(classes, 100 * row_shares(matrix), strict=True)
            )
    draw_confusion(picture, matrix, classes, args.counts)
    right, total = int(np.trace(matrix)), int(matrix.sum())
    print(f'{picture}: {len(classes)} classes, {total:,} pixels, {right / max(total, 1):.2%} of them correct')

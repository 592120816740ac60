"""Which classes a model takes for which: a picture and tables.

    python tools/analysis/confusion_matrix.py CONFIG CHECKPOINT --out DIR     evaluates on the test data
    python tools/analysis/confusion_matrix.py MATRIX --out DIR                .npy or .csv that SegMetric wrote

DIR gets confusion_matrix.csv with the pixels, unless --counts also confusion_matrix_rows.csv with the shares of each
row in per cent, and the picture. Rows are the ground truth.
"""

from __future__ import annotations

import argparse
import csv
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmseg_invattn') is None:  # not installed: run from the checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from mmseg_invattn.cli.arguments import add_common_arguments, add_overwrite_argument, load_config, refuse_existing
from mmseg_invattn.engine.launch import build_test_runner, check_checkpoint_file, leave_distributed
from mmseg_invattn.evaluation.confusion import SUFFIXES, read_confusion, row_shares, write_confusion
from mmseg_invattn.visualization.confusion_plot import draw_confusion


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', metavar='CONFIG|MATRIX', help='config file, or the file of a matrix')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file; not for a matrix')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder of the results')
    parser.add_argument('--format', choices=('png', 'svg', 'pdf'), default='png', help='default: %(default)s')
    parser.add_argument('--counts', action='store_true', help='draw pixels instead of shares of each row')
    add_common_arguments(parser)
    add_overwrite_argument(parser)
    args = parser.parse_args(arguments)
    if args.config.endswith(SUFFIXES) == bool(args.checkpoint):
        parser.error('give CONFIG CHECKPOINT, or the file of a matrix (.npy, .csv) alone')
    return args


def evaluate(args: argparse.Namespace, file: Path) -> None:
    """Run the test data through the model; SegMetric writes the matrix."""
    check_checkpoint_file(args.checkpoint)
    cfg = load_config(args, ('test',))
    cfg.test_evaluator = dict(type='SegMetric', confusion_file=str(file))
    build_test_runner(cfg, args.checkpoint).test()
    leave_distributed()


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
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
        with open(rows, 'w', newline='', encoding='utf-8') as stream:
            writer = csv.writer(stream)
            writer.writerow(['truth \\ prediction', *classes])
            writer.writerows(
                [name, *np.round(row, 3)] for name, row in zip(classes, 100 * row_shares(matrix), strict=True)
            )
    draw_confusion(picture, matrix, classes, args.counts)
    right, total = int(np.trace(matrix)), int(matrix.sum())
    print(f'{picture}: {len(classes)} classes, {total:,} pixels, {right / max(total, 1):.2%} of them right')


if __name__ == '__main__':
    main()

"""Train the demo with every form and mode of attention, and report how many iterations each needs to learn it.

A training ends when its mIoU reaches the level. Trainings that are already in --curves are not repeated.
"""

import argparse
import itertools
from pathlib import Path

from mmengine.config import Config

from ...choices import FORMS, MODES
from ...paths import find_config
from ..convert import context_shapes
from ..parser import CommandParser

CONFIG = 'demo/invnl_plainconv_1xb8-1k_context-shapes-48x96.py'
COMPARED = ('none', 'certified', 'conditional', 'coupling')


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, '--forms none certified --modes l2 --seeds 0', '--doc docs/results/learning.md')
    parser.add_argument(
        '--forms', nargs='+', default=COMPARED, choices=FORMS, metavar='FORM', help='forms of the attention'
    )
    parser.add_argument(
        '--modes', nargs='+', default=MODES, choices=MODES, metavar='MODE', help='modes of the attention'
    )
    parser.add_argument(
        '--seeds', nargs='+', type=int, default=[0, 1, 2, 3, 4], metavar='N', help='seeds; one training for each'
    )
    parser.add_argument(
        '--precision',
        default='float32',
        choices=('float32', 'autocast'),
        help='train in float32, or under autocast in bfloat16 including the branch of the attention; default: float32',
    )
    parser.add_argument('--every', type=int, default=50, metavar='N', help='iterations between two evaluations')
    parser.add_argument('--level', type=float, default=90.0, metavar='MIOU', help='mIoU that counts as learned')
    parser.add_argument(
        '--curves',
        type=Path,
        default=Path('work_dirs/learning.json'),
        metavar='FILE',
        help='file with the curves of all trainings',
    )
    parser.add_argument(
        '--doc',
        type=Path,
        metavar='FILE',
        help='put the table between <!-- table --> and <!-- end --> of this file, and above it a picture of the curves '
        '(FILE with the suffix .svg); with --precision autocast, put the table alone behind <!-- autocast -->; '
        'default: none',
    )
    args = parser.parse_args(arguments)
    if args.every < 1:
        parser.error(f'--every is {args.every}, but must be at least 1')
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    from ...engine.atomic_backend import AtomicLocalBackend
    from ...experiments.doc_table import around_table, replace_table
    from ...experiments.learning import Setting, learning_curve, read_curves, table, write_curves
    from ...experiments.learning_picture import learning_picture

    marker = 'table' if args.precision == 'float32' else args.precision
    if args.doc:
        around_table(args.doc, marker)
    context_shapes.main([])
    cfg, curves = Config.fromfile(find_config(CONFIG)), read_curves(args.curves)
    for seed, mode, form in itertools.product(args.seeds, args.modes, args.forms):
        setting = Setting(form, mode, seed, args.precision)
        if setting not in curves:
            curves[setting] = learning_curve(cfg, setting, args.every, args.level)
            write_curves(args.curves, curves)
            print(f'{form} {mode}, seed {seed}: {curves[setting][-1][1]} after {curves[setting][-1][0]}', flush=True)
    text = table(curves, args.forms, args.modes, args.level, args.precision)
    print(text)
    if args.doc and args.precision == 'float32':
        drawn = learning_picture(curves, args.forms, args.modes, args.level)
        AtomicLocalBackend().put_text(drawn, args.doc.with_suffix('.svg'))
        text = f'![The mIoU of every training, until it is {args.level:g}]({args.doc.stem}.svg)\n\n{text}'
    if args.doc:
        replace_table(args.doc, text, marker)

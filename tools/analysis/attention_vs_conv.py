"""How near the heads of a trained attention network are to convolutions, in numbers and pictures.

    python tools/analysis/attention_vs_conv.py CHECKPOINT --out DIR

Writes ``heads.json`` and ``table.txt`` (centre, spread, entropy and the nearest tap of every head, and the medians of
every layer), ``probabilities.png`` (where each head looks from one pixel) and, beside a file of AttentionCentreHook,
``centres.png`` (centres over training).
"""

import argparse
import json
import sys
from importlib.util import find_spec
from math import hypot
from pathlib import Path
from statistics import median

if find_spec('mmseg_invattn') is None:  # not installed: run from the checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS
from prettytable import PrettyTable
from torch import Tensor, nn

from mmseg_invattn.cli.arguments import add_overwrite_argument, refuse_existing
from mmseg_invattn.datasets.checks import check_data_folders
from mmseg_invattn.engine.checkpoints import read_checkpoint
from mmseg_invattn.engine.hooks.attention_centre_hook import FILE
from mmseg_invattn.engine.matching import load_weights
from mmseg_invattn.experiments.explore.relative_attention_pictures import draw_centres, draw_probabilities, read_centres
from mmseg_invattn.experiments.explore.relative_attention_report import report, seen_layers

RESULTS = ('heads.json', 'table.txt', 'probabilities.png', 'centres.png')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', type=Path, help='of tools/train.py')
    parser.add_argument('--config', help='config file; by default the one that is written in the checkpoint')
    parser.add_argument('--out', type=Path, required=True, help='folder for the results')
    add_overwrite_argument(parser)
    parser.add_argument('--images', type=int, default=4, help='test images that content looks at; default: %(default)s')
    parser.add_argument(
        '--query',
        type=int,
        nargs=2,
        metavar=('ROW', 'COLUMN'),
        help="pixel of the first layer's feature map to look from; default: the middle",
    )
    parser.add_argument('--centres', type=Path, help=f'file of AttentionCentreHook; default: {FILE} beside CHECKPOINT')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override settings of the config'
    )
    args = parser.parse_args()
    if args.images < 1:
        parser.error(f'--images is {args.images}, but the network has to see at least 1')
    return args


def load_model(args: argparse.Namespace) -> tuple[Config, nn.Module]:
    """The network of a checkpoint, in evaluation mode."""
    checkpoint = read_checkpoint(args.checkpoint, map_location='cpu')
    text = checkpoint.get('meta', {}).get('cfg')
    if args.config is None and text is None:
        raise ValueError(f'{args.checkpoint} holds no config: give it by --config')
    cfg = Config.fromfile(args.config) if args.config else Config.fromstring(text, '.py')
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    load_weights(model, checkpoint, str(args.checkpoint))
    return cfg, model.eval()


def test_images(cfg: Config, model: nn.Module, count: int) -> Tensor:
    """The first test images, as the backbone takes them."""
    check_data_folders(cfg, ('test',))
    loader = dict(cfg.test_dataloader, batch_size=1, num_workers=0, persistent_workers=False)
    batches = [batch for _, batch in zip(range(count), Runner.build_dataloader(loader), strict=False)]
    images = [model.data_preprocessor(batch, training=False)['inputs'] for batch in batches]
    if len({image.shape for image in images}) > 1:
        raise ValueError(f'the first {count} test images differ in size: look at one, --images 1')
    return torch.cat(images)


def make_table(rows: list[dict]) -> PrettyTable:
    table = PrettyTable(['layer', 'head', 'centre', 'spread', 'entropy', 'tap', 'weight at tap'])
    for i, row in enumerate(rows):
        table.add_row(
            [
                row['layer'] if not row['head'] else '',
                row['head'],
                '{:+.2f}, {:+.2f}'.format(*row['centre']),
                f'{row["spread"]:.2f}',
                f'{row["entropy"]:.2f}',
                '{:+d}, {:+d}'.format(*row['tap']),
                f'{row["tap_weight"]:.3f}',
            ],
            divider=i + 1 == len(rows) or rows[i + 1]['head'] == 0,
        )
    return table


def make_summary(rows: list[dict], centres: Path | None) -> PrettyTable:
    """Medians over the heads of every layer, how many heads are nearly one pixel, and how far training moved them."""
    moved = {}
    if centres is not None:
        moved = {
            name.removesuffix('.mixing.encoding'): median(hypot(*way) for way in (places[-1] - places[0]).tolist())
            for name, places in read_centres(centres)[1].items()
        }
    table = PrettyTable(
        ['layer', 'distance of centre', 'moved', 'spread', 'entropy', 'weight at tap', 'heads above 0.5']
    )
    for name in dict.fromkeys(row['layer'] for row in rows):
        heads = [row for row in rows if row['layer'] == name]
        middle = [median(hypot(*row['centre']) for row in heads)]
        middle += [median(row[key] for row in heads) for key in ('spread', 'entropy', 'tap_weight')]
        near = sum(row['tap_weight'] > 0.5 for row in heads)
        middle = [f'{value:.2f}' for value in middle]
        middle.insert(1, f'{moved[name]:.2f}' if name in moved else '-')
        table.add_row([name, *middle, f'{near} of {len(heads)}'])
    return table


def main() -> None:
    args = parse_args()
    refuse_existing((args.out / name for name in RESULTS), args.overwrite)
    cfg, model = load_model(args)
    layers = seen_layers(model, test_images(cfg, model, args.images))
    rows = list(report(layers))
    centres = args.centres or args.checkpoint.parent / FILE
    centres = centres if args.centres or centres.is_file() else None
    table = f'{make_table(rows)}\n{make_summary(rows, centres)}'
    args.out.mkdir(parents=True, exist_ok=True)
    draw_probabilities(layers, None if args.query is None else tuple(args.query), args.out / 'probabilities.png')
    if centres is not None:
        draw_centres(centres, args.out / 'centres.png')
    (args.out / 'heads.json').write_text(json.dumps(rows, indent=1))
    (args.out / 'table.txt').write_text(f'{table}\n')
    print(f'{table}\nOffsets are (row, column) in pixels of the feature map; entropy in nats. Results: {args.out}')


if __name__ == '__main__':
    main()

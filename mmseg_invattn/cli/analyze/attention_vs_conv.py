"""How near the heads of a trained attention network are to convolutions, in numbers and pictures.

Writes heads.json and table.txt (centre, spread, entropy and the nearest tap of every head, and the medians of
every layer), probabilities.png (where each head looks from one pixel) and, beside a file of AttentionCentreHook,
centres.png (centres over training).
"""

import argparse
import json
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...datasets.checks import check_data_folders
from ...engine.checkpoints import read_checkpoint
from ...engine.config_file import apply_options
from ...engine.hooks.attention_centre_hook import FILE
from ...engine.matching import load_weights
from ...experiments.explore.relative_attention_pictures import draw_centres, draw_probabilities
from ...experiments.explore.relative_attention_report import report, seen_layers
from ...experiments.explore.relative_attention_tables import make_summary, make_table
from ..arguments import add_cfg_options, add_trust_argument, read_config
from ..output import add_output_arguments, refuse_existing
from ..parser import CommandParser

RESULTS = ('heads.json', 'table.txt', 'probabilities.png', 'centres.png')


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'work_dirs/run/iter_150.pth --out heads')
    parser.add_argument('checkpoint', type=Path, metavar='CHECKPOINT', help='checkpoint file of a training')
    parser.add_argument('--config', metavar='CONFIG', help='config file; default: that which the checkpoint holds')
    add_output_arguments(parser, 'folder of the results', folder=True, required=True)
    parser.add_argument('--images', type=int, default=4, metavar='N', help='test images that content looks at')
    parser.add_argument(
        '--query',
        type=int,
        nargs=2,
        metavar=('ROW', 'COLUMN'),
        help="pixel of the first layer's feature map to look from; default: the middle",
    )
    parser.add_argument(
        '--centres', type=Path, metavar='FILE', help=f'of AttentionCentreHook; default: {FILE} beside the checkpoint'
    )
    add_cfg_options(parser)
    add_trust_argument(parser)
    args = parser.parse_args(arguments)
    if args.images < 1:
        parser.error(f'--images is {args.images}, but the network has to see at least 1')
    return args


def load_model(args: argparse.Namespace) -> tuple[Config, nn.Module]:
    """The network of a checkpoint, in evaluation mode."""
    checkpoint = read_checkpoint(args.checkpoint, 'cpu', args.trust_checkpoint)
    text = checkpoint.get('meta', {}).get('cfg')
    if args.config is None and text is None:
        raise ValueError(f'{args.checkpoint} holds no config: give it by --config')
    if args.config:
        cfg = read_config(args)
    else:
        cfg = Config.fromstring(text, '.py')
        apply_options(cfg, args.cfg_options or {}, f'the config in {args.checkpoint}')
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


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
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

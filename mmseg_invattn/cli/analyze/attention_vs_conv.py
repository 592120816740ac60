"""Show how close the heads of a trained attention network are to convolutions, in numbers and pictures.

It writes heads.json and table.txt (centre, spread, entropy and the nearest tap of every head, and the medians of
every layer) and probabilities.png (the attention of each head from one pixel). If a file of AttentionCentreHook
is in the folder of the checkpoint, it also writes centres.png (centres during training), and curves.json and
curves.png (share of heads close to one pixel, and spread, for each layer during training). Several checkpoints are
runs of one network with different seeds: tables and curves then show all of them, the other pictures the first.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..arguments import add_cfg_options, add_trust_argument, config_of_model
from ..output import add_output_arguments, refuse_existing
from ..parser import CommandParser

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import Tensor, nn

RESULTS = ('heads.json', 'table.txt', 'probabilities.png', 'centres.png', 'curves.json', 'curves.png')


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'work_dirs/run/iter_150.pth --out heads')
    parser.add_argument(
        'checkpoints', type=Path, nargs='+', metavar='CHECKPOINT', help='checkpoint files of one or several trainings'
    )
    parser.add_argument('--config', metavar='CONFIG', help='config file; default: the config in the checkpoint')
    add_output_arguments(parser, 'folder for the results', folder=True, required=True)
    parser.add_argument(
        '--images', type=int, default=4, metavar='N', help='test images, for attention that depends on content'
    )
    parser.add_argument(
        '--query',
        type=int,
        nargs=2,
        metavar=('ROW', 'COLUMN'),
        help="the query: a pixel of the first layer's feature map; default: the middle",
    )
    parser.add_argument(
        '--prune',
        type=Path,
        metavar='FILE',
        help='write the weights without degenerate heads, whose attention covers the whole map or a line, to this '
        'file; default: none',
    )
    add_cfg_options(parser)
    add_trust_argument(parser)
    args = parser.parse_args(arguments)
    if args.images < 1:
        parser.error(f'--images is {args.images}, but must be at least 1')
    if args.prune and len(args.checkpoints) > 1:
        parser.error(f'--prune needs exactly one checkpoint, but {len(args.checkpoints)} are given')
    return args


def load_model(path: Path, args: argparse.Namespace) -> tuple[Config, nn.Module]:
    """The network of a checkpoint, in evaluation mode."""
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    from ...engine.checkpoints import read_checkpoint
    from ...engine.matching import load_weights

    cfg = config_of_model(args, path)
    checkpoint = read_checkpoint(path, 'cpu', args.trust_checkpoint)
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    load_weights(model, checkpoint, str(path))
    return cfg, model.eval()


def test_images(cfg: Config, model: nn.Module, count: int) -> Tensor:
    """The first test images, preprocessed for the backbone."""
    import torch
    from mmengine.runner import Runner

    from ...datasets.checks import check_data_folders

    check_data_folders(cfg, ('test',))
    loader = dict(cfg.test_dataloader, batch_size=1, num_workers=0, persistent_workers=False)
    batches = [batch for _, batch in zip(range(count), Runner.build_dataloader(loader), strict=False)]
    images = [model.data_preprocessor(batch, training=False)['inputs'] for batch in batches]
    if len({image.shape for image in images}) > 1:
        raise ValueError(f'the first {count} test images differ in size: use only one, with --images 1')
    return torch.cat(images)


def prune(model: nn.Module, target: Path) -> str:
    """Writes the weights without degenerate heads and returns a message for the user."""
    import torch

    from ...engine.atomic_backend import AtomicLocalBackend
    from ...experiments.explore.degenerate_heads import without_degenerate_heads

    state, left = without_degenerate_heads(model)
    stream = io.BytesIO()
    torch.save(dict(state_dict=state), stream)
    AtomicLocalBackend().put(stream.getvalue(), target)
    layers = ','.join(map(str, left))
    return (
        f'{target}: {sum(left)} heads left; to continue training, use --cfg-options '
        f'model.backbone.num_heads="[{layers}]" load_from={target}'
    )


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    from ...engine.atomic_backend import AtomicLocalBackend
    from ...engine.hooks.attention_centre_hook import FILE
    from ...experiments.explore.head_curves import draw_curves, head_curve
    from ...experiments.explore.relative_attention_pictures import draw_centres, draw_probabilities
    from ...experiments.explore.relative_attention_report import report, seen_layers
    from ...experiments.explore.relative_attention_tables import make_summary, make_table

    written = [*(args.out / name for name in RESULTS), *([args.prune] if args.prune else [])]
    refuse_existing(written, args.overwrite)
    rows, tables, first, pruned = [], [], [], None
    for path in args.checkpoints:
        cfg, model = load_model(path, args)
        layers = seen_layers(model, test_images(cfg, model, args.images))
        found = [dict(run=str(path), **row) for row in report(layers)]
        rows += found
        tables.append(f'{path}\n{make_table(found)}')
        first = first or layers
        pruned = prune(model, args.prune) if args.prune else None
    sources = [path.parent / FILE for path in args.checkpoints if (path.parent / FILE).is_file()]
    summary = make_summary(rows, sources)
    args.out.mkdir(parents=True, exist_ok=True)
    backend = AtomicLocalBackend()
    draw_probabilities(first, None if args.query is None else tuple(args.query), args.out / 'probabilities.png')
    if sources:
        draw_centres(sources[0], args.out / 'centres.png')
        curves = [dict(run=str(path.parent), **head_curve(path)) for path in sources]
        backend.put_text(json.dumps(curves), args.out / 'curves.json')
        draw_curves(curves, args.out / 'curves.png')
    backend.put_text(json.dumps(rows, indent=1), args.out / 'heads.json')
    backend.put_text('\n'.join([*tables, f'{summary}\n']), args.out / 'table.txt')
    print('\n'.join([*(tables if len(tables) == 1 else []), str(summary)]))
    print(f'Offsets are (row, column) in pixels of the feature map; entropy in nats. Results: {args.out}')
    if pruned:
        print(pruned)

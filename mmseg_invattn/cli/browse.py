"""Write samples as the model gets them, after augmentation, next to their labels in colours."""

from __future__ import annotations

import argparse
from itertools import islice

import numpy as np

from ..wording import counted
from .arguments import add_config_arguments, read_config
from .output import add_output_arguments, refuse_existing
from .parser import CommandParser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'CONFIG --out samples --split train --num 20')
    add_config_arguments(parser)
    add_output_arguments(parser, 'folder for the pictures', folder=True, required=True)
    parser.add_argument('--split', choices=('train', 'val', 'test'), default='train', help='split of the data')
    parser.add_argument('--num', type=int, default=20, metavar='N', help='number of samples')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='seed of selection and augmentation')
    parser.add_argument(
        '--opacity', type=float, default=0.5, metavar='SHARE', help='opacity of the colours over the image, 0 to 1'
    )
    args = parser.parse_args(arguments)
    if args.num < 1:
        parser.error(f'--num is {args.num}, but must be at least 1')
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    from mmengine.registry import init_default_scope
    from mmseg.registry import DATASETS
    from torch import Tensor
    from tqdm import tqdm

    from ..datasets import ResumableInfiniteSampler, check_data_folders
    from ..datasets.pictures import to_picture
    from ..visualization.media import write_image
    from ..visualization.overlay import beside, class_colours, paint, with_legend

    cfg = read_config(args)
    if not cfg.get(f'{args.split}_dataloader'):
        raise ValueError(f'{args.config}: the config has no {args.split}_dataloader')
    check_data_folders(cfg, (args.split,))
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    dataset = DATASETS.build(cfg[f'{args.split}_dataloader'].dataset)
    files = [args.out / f'{number:04d}.png' for number in range(args.num)]
    refuse_existing(files, args.overwrite)
    args.out.mkdir(parents=True, exist_ok=True)
    names = list(dataset.metainfo['classes'])
    colours = class_colours(len(names), dataset.metainfo.get('palette'))
    # each index carries the seed of its augmentation, as in training
    indices = islice(ResumableInfiniteSampler(dataset, seed=args.seed), args.num)
    for file, index in tqdm(zip(files, indices, strict=True), total=args.num, desc=args.split, unit='sample'):
        sample = dataset[index]
        if not isinstance(sample['inputs'], Tensor):
            raise ValueError(
                f'the {args.split} pipeline gives several images per sample (test-time augmentation): '
                'use a --split without it'
            )
        image = to_picture(sample['inputs'].numpy().transpose(1, 2, 0))
        picture = image
        if 'gt_sem_seg' in sample['data_samples']:
            labels = sample['data_samples'].gt_sem_seg.data[0].numpy()
            shown = [k for k in np.unique(labels).tolist() if k < len(names)]
            picture = with_legend(beside(image, paint(image, labels, colours, args.opacity)), names, colours, shown)
        write_image(file, picture)
    print(f'{counted(args.num, "sample")}: {args.out}')

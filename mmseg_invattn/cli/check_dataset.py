"""Check the data sets of a config: every file and every label value.

It reports images without a label, labels without an image, images that would be left out, files that are damaged or
cannot be read, images and labels of different size, and label values that are no class, and prints how often each class
occurs, which classes never occur, and how many images EXIF turns. It checks everything even if there are faults; the
exit status is 1 if there was one.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from mmengine.config import Config

from ..wording import counted
from .arguments import add_config_arguments, read_config
from .parser import CommandParser

if TYPE_CHECKING:
    from prettytable import PrettyTable

    from ..datasets.survey import Survey

SPLITS = ('train', 'val', 'test')


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'CONFIG', 'CONFIG --splits train val --shown 0')
    add_config_arguments(parser)
    parser.add_argument(
        '--splits',
        nargs='+',
        choices=SPLITS,
        default=SPLITS,
        metavar='SPLIT',
        help='splits to check, if the config has them',
    )
    parser.add_argument(
        '--shown', type=int, default=20, metavar='N', help='number of files to list for each kind of fault, 0 for all'
    )
    return parser.parse_args(arguments)


def survey_split(cfg: Config, split: str) -> Survey:
    """Checks one split; if it cannot be built at all, that is a fault too."""
    from mmseg.registry import DATASETS
    from tqdm import tqdm

    from ..datasets.checks import shared_label_folders
    from ..datasets.survey import FOLDER, Fault, Survey, survey_dataset

    try:
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    except (AssertionError, OSError, ValueError) as error:
        return Survey(faults=[Fault(FOLDER, split, str(error))])
    return survey_dataset(dataset, partial(tqdm, desc=split, unit='image'), shared_label_folders(cfg, [split]))


def histogram(survey: Survey) -> PrettyTable:
    """A table of how often each class occurs."""
    from prettytable import PrettyTable

    table = PrettyTable(['class', 'pixels', 'share', 'images'], align='r')
    table.align['class'] = 'l'
    total = max(int(survey.pixels.sum()), 1)
    names = [f'{k} {name}' for k, name in enumerate(survey.classes)] + ['ignored']
    for name, pixels, images in zip(names, survey.pixels.tolist(), survey.images_with.tolist(), strict=True):
        table.add_row([name, f'{pixels:,}', f'{pixels / total:.3%}', f'{images:,}'])
    return table


def report(survey: Survey, shown: int) -> None:
    """Prints the histogram and the faults, grouped by kind."""
    if survey.images:
        print(histogram(survey))
    for value, (pixels, files) in sorted(survey.values.items()):
        print(f'the value {value} is no class: {counted(pixels, "pixel")} in {counted(files, "file")}')
    for remark in survey.remarks():
        print(f'note: {remark}')
    for kind in sorted({fault.kind for fault in survey.faults}):
        faults = [fault for fault in survey.faults if fault.kind == kind]
        print(f'{kind}: {len(faults)}')
        for fault in faults[: shown or None]:
            print(f'    {fault}')
        if shown and len(faults) > shown:
            print(f'    ... and {len(faults) - shown} more; --shown 0 lists all')


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)

    from mmengine.registry import init_default_scope

    cfg = read_config(args)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    splits = [split for split in args.splits if cfg.get(f'{split}_dataloader')]
    if not splits:
        raise ValueError(f'{args.config}: the config has no data for {", ".join(args.splits)}')
    faulty, seen = 0, {}
    for split in splits:
        dataset = cfg[f'{split}_dataloader'].dataset.to_dict()
        same = next((other for other, config in seen.items() if config == dataset), None)
        if same:
            print(f'== {split}: the same data as {same}')
            continue
        seen[split] = dataset
        survey = survey_split(cfg, split)
        print(f'== {split}: {counted(survey.images, "image")}, {counted(len(survey.faults), "fault")}')
        report(survey, args.shown)
        faulty += len(survey.faults)
    return 1 if faulty else 0

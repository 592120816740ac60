"""A walk through a whole data set that collects its faults instead of stopping at the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import mmengine.fileio as fileio
import numpy as np
from mmengine.dataset import BaseDataset

from ..wording import counted
from .image_files import decode, follows_exif, orientation, outside_classes, size_advice, training_labels
from .leaves import label_classes, leaf_datasets, loader_of, needs_labels
from .pairing import labels_without_image, lies_here, lists_whole_folder, skipped_files, why_no_file

MISSING_IMAGE, MISSING_LABEL, MISSING_PARTNER = 'missing image', 'missing label', 'label without image'
SKIPPED = 'image that is left out'
UNREADABLE, SIZE, CHANNELS = 'unreadable', 'size differs', 'several channels'
VALUE, FOLDER = 'value that is no class', 'folder or list'
FEW_CLASSES = 10  # with so few classes, 255 may be meant as one of them, as in a black and white mask


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file.

    Attributes:
        kind: one of the constants of this file.
    """

    kind: str
    file: str
    detail: str = ''

    def __str__(self) -> str:
        return f'{self.file}{": " if self.detail else ""}{self.detail}'


@dataclass
class Survey:
    """What was found in one split.

    Attributes:
        classes: names of the classes that a model learns.
        pixels: (K + 1, ) int64, pixels of each class; the last entry counts those that are ignored.
        images_with: (K + 1, ) int64, number of images in which each occurs.
        values: each value that is not a class -> its pixels, and the number of files that hold it.
        held: values that the label files hold, without those that are not classes.
        ignore_index: value of the pixels that are ignored.
        of: number of all images if only some were looked at; None if all were.
        turned: EXIF orientation -> number of images that loading turns by it.
    """

    classes: tuple[str, ...] = ()
    images: int = 0
    faults: list[Fault] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    images_with: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    values: dict[int, tuple[int, int]] = field(default_factory=dict)
    held: set[int] = field(default_factory=set)
    ignore_index: int = 255
    of: int | None = None
    turned: Counter[int] = field(default_factory=Counter)

    def count(self, label: np.ndarray, reduce_zero_label: bool, label_map: dict[int, int] | None) -> None:
        """Add a label map as stored in its file; all its values must be classes or ignored."""
        in_file = np.bincount(label.astype(np.uint8).ravel(), minlength=256).astype(np.int64)
        self.held.update(np.flatnonzero(in_file).tolist())
        trained = training_labels(np.arange(256, dtype=np.uint8), reduce_zero_label, label_map)
        counts = np.bincount(trained, in_file, 256).astype(np.int64)
        known = len(self.classes)
        counts = np.append(counts[:known], counts[known:].sum())
        self.pixels += counts
        self.images_with += counts > 0

    def count_orientation(self, value: int) -> None:
        """Add the EXIF orientation of an image that loading turns by it."""
        if value > 1:
            self.turned[value] += 1

    def remarks(self) -> list[str]:
        """What is probably unintended although no file is faulty: one or two sentences each."""
        found, few = [], len(self.classes) <= FEW_CLASSES
        absent = [name for name, pixels in zip(self.classes, self.pixels, strict=False) if not pixels]
        if absent and self.images:
            whole = self.of is None or self.images >= self.of
            have, them = ('has', 'it') if len(absent) == 1 else ('have', 'them')
            text = (
                f'{", ".join(absent[:8])}{", ..." * (len(absent) > 8)} ({len(absent)} of '
                f'{counted(len(self.classes), "class")}) {have} no pixel in the {counted(self.images, "label")} '
            ) + (
                f'of this split, so that nothing is learned or measured of {them} there'
                if whole
                else f'looked at, of {self.of} (check-dataset reads all)'
            )
            if self.ignore_index in self.held and few:
                held = ', '.join(map(str, sorted(self.held)))
                text += (
                    f'. The labels hold {held}, and {self.ignore_index} is ignored (ignore_index): if it means a '
                    'class in these files, convert it to the number of that class'
                )
            found.append(text)
        if self.turned:
            listed = ', '.join(f'orientation {value} in {count}' for value, count in sorted(self.turned.items()))
            found.append(
                f'Loading turns or mirrors {counted(self.turned.total(), "image")} of {self.images} as their EXIF data '
                f'say ({listed}), but never a label: labels must match the image as it is shown. If they match the '
                "stored pixels, load images with color_type='color_ignore_orientation'"
            )
        return found

    def count_values(self, values: np.ndarray) -> str:
        """Add the values of one file that are not classes, and describe them."""
        counts = Counter(values.tolist())
        for value, pixels in counts.items():
            before = self.values.get(value, (0, 0))
            self.values[value] = (before[0] + pixels, before[1] + 1)
        return ', '.join(f'{value} in {counted(counts[value], "pixel")}' for value in sorted(counts))


def empty_survey(leaves: Sequence[BaseDataset]) -> Survey:
    """A survey of data sets of which no file has been read yet."""
    names = max((tuple(leaf.metainfo.get('classes') or ()) for leaf in leaves), key=len, default=())
    return Survey(
        names,
        pixels=np.zeros(len(names) + 1, np.int64),
        images_with=np.zeros(len(names) + 1, np.int64),
        ignore_index=next((leaf.ignore_index for leaf in leaves), 255),
    )


def survey_dataset(
    dataset: object, progress: Callable[[Iterable], Iterable] = iter, shared: Iterable[str] = ()
) -> Survey:
    """Look at every image and every label of a data set.

    Args:
        dataset: A built data set or a wrapper of data sets.
        progress: Wraps the iterable of images, for a progress bar.
        shared: Label folders that other data sets use too, so that a label there may have no image here.

    Returns:
        What was found. Faults of the data are listed in it and raise nothing.
    """
    leaves = list(leaf_datasets(dataset))
    survey = empty_survey(leaves)
    local = []
    for leaf in leaves:
        folder = leaf.data_prefix.get('img_path', '')
        if len(leaf) == 0:
            survey.faults.append(Fault(FOLDER, str(folder), 'the data set has no images'))
        if lies_here(leaf):
            local.append(leaf)
            if lists_whole_folder(leaf):
                survey.faults += [Fault(SKIPPED, *found) for found in skipped_files(folder, leaf.img_suffix)]
    for place, index in progress([(place, index) for place, leaf in enumerate(leaves) for index in range(len(leaf))]):
        survey.images += 1
        _look_at(leaves[place], leaves[place].get_data_info(index), survey)
    survey.faults += [Fault(MISSING_PARTNER, file) for file in labels_without_image(local, set(shared))]
    return survey


def _look_at(leaf: BaseDataset, info: dict, survey: Survey) -> None:
    """Count an image and its label, and add their faults."""
    backend_args = getattr(leaf, 'backend_args', None)
    flag, backend = loader_of(leaf)
    image, turned = _read(info['img_path'], flag, backend, MISSING_IMAGE, backend_args, survey)
    turned = turned if follows_exif(flag) else 1
    survey.count_orientation(turned)
    path = info.get('seg_map_path')
    if path is None:
        if needs_labels(leaf):
            survey.faults.append(Fault(MISSING_LABEL, info['img_path'], 'the data set names no label for this image'))
        return
    label, _ = _read(path, 'unchanged', 'pillow', MISSING_LABEL, backend_args, survey)
    if label is None:
        return
    if label.ndim != 2:
        survey.faults.append(Fault(CHANNELS, path, f'it decodes to the shape {label.shape}, a label map has 1 channel'))
        return
    if image is not None and label.shape != image.shape[:2]:
        advice = size_advice(label.shape, image.shape[:2], turned)
        survey.faults.append(
            Fault(
                SIZE,
                path,
                f'{label.shape[0]}x{label.shape[1]} (height x width), its image {image.shape[0]}x{image.shape[1]}'
                + f'. {advice}' * (turned > 4),
            )
        )
    reduce_zero, ignored = bool(info.get('reduce_zero_label')), leaf.ignore_index
    outside = outside_classes(label, len(label_classes(leaf)), ignored, reduce_zero)
    if outside.any():
        survey.faults.append(Fault(VALUE, path, survey.count_values(label[outside])))
        label = np.where(outside, ignored, label)
    survey.count(label, reduce_zero, info.get('label_map'))


def _read(
    path: str, flag: str, backend: str, missing: str, backend_args: dict | None, survey: Survey
) -> tuple[np.ndarray | None, int]:
    """The decoded file and its EXIF orientation. A file that cannot be read gives None and is added as a fault."""
    try:
        data = fileio.get(path, backend_args=backend_args)
        return decode(data, path, flag, backend), orientation(data)
    except FileNotFoundError:
        survey.faults.append(Fault(missing, path, why_no_file(path)))
    except (OSError, ValueError) as error:
        survey.faults.append(Fault(UNREADABLE, path, str(error)))
    return None, 1

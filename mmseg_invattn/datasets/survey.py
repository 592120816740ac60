"""A walk through a whole data set that collects its faults instead of stopping at the first."""

from __future__ import annotations

import os.path as osp
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import mmengine.fileio as fileio
import numpy as np
from mmengine.dataset import BaseDataset

from ..wording import counted
from .checks import is_local, label_classes, leaf_datasets, needs_labels
from .image_files import decode, outside_classes, training_labels

MISSING_IMAGE, MISSING_LABEL, MISSING_PARTNER = 'missing image', 'missing label', 'label without image'
UNREADABLE, SIZE, CHANNELS = 'unreadable', 'size differs', 'several channels'
VALUE, FOLDER = 'value that is no class', 'folder or list'


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
        images_with: (K + 1, ) int64, images in which each occurs.
        values: pixels of each value that is no class, and the number of files that hold it.
    """

    classes: tuple[str, ...] = ()
    images: int = 0
    faults: list[Fault] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    images_with: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    values: dict[int, tuple[int, int]] = field(default_factory=dict)

    def count(self, labels: np.ndarray) -> None:
        """Add a label map of training values."""
        counts = np.bincount(labels.ravel(), minlength=256).astype(np.int64)
        known = len(self.classes)
        counts = np.append(counts[:known], counts[known:].sum())
        self.pixels += counts
        self.images_with += counts > 0

    def count_values(self, values: np.ndarray) -> str:
        """Add the values of one file that are no classes, and describe them."""
        counts = Counter(values.tolist())
        for value, pixels in counts.items():
            before = self.values.get(value, (0, 0))
            self.values[value] = (before[0] + pixels, before[1] + 1)
        return ', '.join(f'{value} in {counted(counts[value], "pixel")}' for value in sorted(counts))


def survey_dataset(dataset: object, progress: Callable[[Iterable], Iterable] = iter) -> Survey:
    """Look at every image and every label of a data set.

    Args:
        dataset: A built data set or a wrapper of data sets.
        progress: Wraps what is walked over, for a progress bar.

    Returns:
        What was found; nothing is raised for a fault of the data.
    """
    leaves = list(leaf_datasets(dataset))
    names = max((tuple(leaf.metainfo.get('classes') or ()) for leaf in leaves), key=len, default=())
    survey = Survey(names, pixels=np.zeros(len(names) + 1, np.int64), images_with=np.zeros(len(names) + 1, np.int64))
    for leaf in leaves:
        if len(leaf) == 0:
            survey.faults.append(Fault(FOLDER, str(leaf.data_prefix.get('img_path')), 'the data set has no images'))
    for place, index in progress([(place, index) for place, leaf in enumerate(leaves) for index in range(len(leaf))]):
        survey.images += 1
        _look_at(leaves[place], leaves[place].get_data_info(index), survey)
    for leaf in leaves:
        survey.faults += [Fault(MISSING_PARTNER, file) for file in _labels_without_image(leaf)]
    return survey


def _look_at(leaf: BaseDataset, info: dict, survey: Survey) -> None:
    """Count an image and its label, or add their faults."""
    backend_args = getattr(leaf, 'backend_args', None)
    image = _read(info['img_path'], 'color', 'cv2', MISSING_IMAGE, backend_args, survey)
    path = info.get('seg_map_path')
    if path is None:
        if needs_labels(leaf):
            survey.faults.append(Fault(MISSING_LABEL, info['img_path'], 'the data set names no label for this image'))
        return
    label = _read(path, 'unchanged', 'pillow', MISSING_LABEL, backend_args, survey)
    if label is None:
        return
    if label.ndim != 2:
        survey.faults.append(Fault(CHANNELS, path, f'it decodes to the shape {label.shape}, a label map has 1 channel'))
        return
    if image is not None and label.shape != image.shape[:2]:
        survey.faults.append(
            Fault(
                SIZE,
                path,
                f'{label.shape[0]}x{label.shape[1]} (height x width), its image {image.shape[0]}x{image.shape[1]}',
            )
        )
    reduce_zero, ignored = bool(info.get('reduce_zero_label')), leaf.ignore_index
    outside = outside_classes(label, len(label_classes(leaf)), ignored, reduce_zero)
    if outside.any():
        survey.faults.append(Fault(VALUE, path, survey.count_values(label[outside])))
        label = np.where(outside, ignored, label)
    survey.count(training_labels(label, reduce_zero, info.get('label_map')))


def _read(
    path: str, flag: str, backend: str, missing: str, backend_args: dict | None, survey: Survey
) -> np.ndarray | None:
    """The decoded file; None where there is a fault, which is added."""
    try:
        return decode(fileio.get(path, backend_args=backend_args), path, flag, backend)
    except FileNotFoundError:
        survey.faults.append(Fault(missing, path))
    except (OSError, ValueError) as error:
        survey.faults.append(Fault(UNREADABLE, path, str(error)))
    return None


def _labels_without_image(leaf: BaseDataset) -> list[str]:
    """Label files that no image of the data set has; a data set with a list of images may leave some out."""
    folder = leaf.data_prefix.get('seg_map_path')
    backend_args = getattr(leaf, 'backend_args', None)
    # indices take a part of the data set
    if (
        not folder
        or leaf.ann_file
        or leaf._indices is not None
        or not is_local(folder, backend_args)
        or not osp.isdir(folder)
    ):
        return []
    used = {osp.normpath(leaf.get_data_info(index)['seg_map_path']) for index in range(len(leaf))}
    found = fileio.list_dir_or_file(folder, list_dir=False, suffix=leaf.seg_map_suffix, recursive=True)
    return sorted(path for path in (osp.normpath(osp.join(folder, name)) for name in found) if path not in used)

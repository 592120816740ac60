"""Which classes occur in a data set, from as few labels as it takes: quick enough for the start of a run."""

import mmengine.fileio as fileio
import numpy as np

from .image_files import decode, follows_exif, orientation, outside_classes
from .leaves import label_classes, leaf_datasets, loader_of, needs_labels
from .survey import Survey, empty_survey

# 48 labels of Cityscapes, 580 of CamVid: seconds on one core.
MAX_PIXELS = 100_000_000
MIN_LABELS = 16  # at least so many, for the EXIF data of their images


def sample_classes(dataset: object, max_pixels: int = MAX_PIXELS) -> Survey:
    """Count the classes in labels from all over a data set, until each has occurred or enough pixels were read.

    Faulty files are left to the loading transforms, which name them.

    Args:
        dataset: A built data set or a wrapper of data sets.
        max_pixels: After so many pixels no further label is read.

    Returns:
        A survey of the labels that were read; ``of`` has the number of those that there are.
    """
    leaves = [leaf for leaf in leaf_datasets(dataset) if needs_labels(leaf) and label_classes(leaf)]
    survey = empty_survey(leaves)
    places = [(leaf, index) for leaf in leaves for index in range(len(leaf))]
    survey.of = len(places)
    for place in np.random.default_rng(0).permutation(len(places)):
        leaf, index = places[place]
        info = leaf.get_data_info(index)
        backend_args = getattr(leaf, 'backend_args', None)
        try:
            label = decode(
                fileio.get(info['seg_map_path'], backend_args=backend_args), info['seg_map_path'], 'unchanged', 'pillow'
            )
            if follows_exif(loader_of(leaf)[0]):
                survey.count_orientation(orientation(fileio.get(info['img_path'], backend_args=backend_args)))
        except (OSError, ValueError, KeyError):
            continue
        reduce_zero = bool(info.get('reduce_zero_label'))
        if label.ndim == 2:
            rule = (len(label_classes(leaf)), leaf.ignore_index, reduce_zero)
            values = np.flatnonzero(np.bincount(label.ravel())) if label.dtype == np.uint8 else np.unique(label)
            if outside_classes(values, *rule).any():
                label = np.where(outside_classes(label, *rule), leaf.ignore_index, label)
            survey.count(label, reduce_zero, info.get('label_map'))
        survey.images += 1
        read = int(survey.pixels.sum())
        if read >= max_pixels or (survey.pixels[:-1].all() and survey.images >= MIN_LABELS):
            break
    return survey

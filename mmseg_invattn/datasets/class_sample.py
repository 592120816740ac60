"""Find which classes occur in a data set by reading only as many labels as needed, at the start of every run."""

import mmengine.fileio as fileio
import numpy as np

from .image_files import decode, follows_exif, orientation, outside_classes
from .leaves import label_classes, leaf_datasets, loader_of, needs_labels
from .survey import Survey, empty_survey

# 48 labels of Cityscapes, or 580 of CamVid: reading them takes seconds on one core.
MAX_PIXELS = 100_000_000
MIN_LABELS = 16  # read even if every class has occurred before, for the EXIF data of their images


def sample_classes(dataset: object, max_pixels: int = MAX_PIXELS) -> Survey:
    """Count the classes in randomly chosen labels of a data set until each has occurred or enough pixels were read.

    Faulty files are skipped here; the loading transforms report them.

    Args:
        dataset: A built data set or a wrapper of data sets.
        max_pixels: Number of pixels after which no further label is read.

    Returns:
        A survey of the labels that were read; its ``of`` is the number of all labels.
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

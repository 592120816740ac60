"""Writes predictions as label files: their paths, and their values."""

from __future__ import annotations

import io
import os.path as osp
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmseg.datasets import CityscapesDataset
from PIL import Image

from ..engine.atomic_backend import AtomicLocalBackend


def label_values(labels: np.ndarray, num_classes: int, reduce_zero_label: bool) -> np.ndarray:
    """Predicted classes with the values of the data set's label files, which may count from 1.

    Returns:
        uint8, or uint16 if there are more values than fit into uint8.
    """
    labels = labels.astype(np.int64) + bool(reduce_zero_label)
    return labels.astype(np.uint8 if num_classes + bool(reduce_zero_label) <= 256 else np.uint16)


def submitted_values(labels: np.ndarray, classes: Sequence[str], reduce_zero_label: bool) -> np.ndarray:
    """Predicted classes as a benchmark expects them: label ids for Cityscapes, otherwise the label files' values."""
    if tuple(classes) == tuple(CityscapesDataset.METAINFO['classes']):
        from cityscapesscripts.helpers.labels import trainId2label

        ids = np.array([trainId2label[k].id for k in range(len(classes))], np.uint8)
        return ids[labels.astype(np.int64)]
    return label_values(labels, len(classes), reduce_zero_label)


def png_of(values_HW: np.ndarray) -> bytes:
    """A map of uint8 or uint16 as PNG."""
    stream = io.BytesIO()
    Image.fromarray(values_HW).save(stream, format='png')
    return stream.getvalue()


class PredictionFolder:
    """Writes a file for each image, into the same sub-folder that the image has below the folder of all images.

    Args:
        root: Folder of all images. None if it is not known; then images of the same name are an error.
    """

    def __init__(self, root: str | None = None) -> None:
        self.root = root
        self._taken: dict[Path, str] = {}

    def write(self, folder: str | Path, image_file: str, png: bytes) -> Path:
        """Write the prediction of an image.

        Raises:
            ValueError: The prediction of another image has been written under this name.
        """
        name = self.name_of(image_file)
        first = self._taken.setdefault(name, image_file)
        if first != image_file:
            raise ValueError(
                f'{first} and {image_file} have the same name. Predictions are named after their images, so that one '
                'would replace the other. Rename one of the images'
            )
        path = Path(folder) / name
        AtomicLocalBackend().put(png, path)
        return path

    def name_of(self, image_file: str) -> Path:
        """The path of an image's prediction below the folder of all predictions."""
        bare = osp.splitext(osp.relpath(image_file, self.root) if self.root else osp.basename(image_file))[0]
        # a list may name an image outside the folder
        return Path(*(part for part in Path(bare).parts if part not in ('..', '/'))).with_name(
            f'{osp.basename(bare)}.png'
        )

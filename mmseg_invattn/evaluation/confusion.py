"""The confusion matrix: how it is counted, what is computed from it, and its files.

Rows are the ground truth, columns the predictions: ``C_KK[i, j]`` pixels of class i were predicted as j. Counts are
int64 from the first step, because labels are uint8, in which ``19 * label`` overflows from label 14 on.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..choices import MATRIX_SUFFIXES
from ..engine.atomic_backend import AtomicLocalBackend, whole_file
from ..wording import counted


def count_pairs(prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """The entries of one image's confusion matrix that are not 0.

    Args:
        prediction: Classes, any shape and integer type.
        label: Ground truth of the same shape.
        num_classes: K.
        ignore_index: Label of the pixels that do not count.

    Returns:
        int64 of shape (2, entries): the positions ``i K + j``, ascending, and their counts.

    Raises:
        ValueError: The shapes differ, or a value is not a class.
    """
    if prediction.shape != label.shape:
        raise ValueError(
            f'the prediction has shape {tuple(prediction.shape)} and the ground truth '
            f'{tuple(label.shape)}, but both must have the same size: let the model predict at ori_shape'
        )
    inside = label != ignore_index
    prediction, label = prediction[inside].long(), label[inside].long()
    for what, values in (('ground truth', label), ('prediction', prediction)):
        outside = (values < 0) | (values >= num_classes)
        if outside.any():
            found = values[outside].unique().tolist()
            raise ValueError(
                f'the {what} holds {", ".join(map(str, found[:8]))} in {counted(int(outside.sum()), "pixel")}, but '
                f'the {num_classes} classes are 0 to {num_classes - 1}, and {ignore_index} is ignored: '
                'run tools/check_dataset.py, and compare num_classes of the model and the data set'
            )
    counts = torch.bincount(label * num_classes + prediction, minlength=num_classes**2)
    places = counts.nonzero().squeeze(1)
    return torch.stack([places, counts[places]])


def add_pairs(parts: Sequence[Tensor], num_classes: int) -> np.ndarray:
    """The confusion matrix of many images from what :func:`count_pairs` gave for each, (K, K) int64."""
    total = torch.zeros(num_classes**2, dtype=torch.int64)
    for places, counts in parts:
        total[places.cpu()] += counts.cpu()
    return total.view(num_classes, num_classes).numpy()


def class_iou(matrix_KK: np.ndarray) -> np.ndarray:
    """``C_kk / (C_k. + C_.k - C_kk)`` of each class, (K, ) float64; NaN if no label and no prediction has it."""
    right = np.diag(matrix_KK)
    union = matrix_KK.sum(0) + matrix_KK.sum(1) - right
    return np.divide(right, union, out=np.full(len(right), np.nan), where=union > 0)


def row_shares(matrix_KK: np.ndarray) -> np.ndarray:
    """Each row divided by its sum; the row of a class without pixels is NaN."""
    total = matrix_KK.sum(1, keepdims=True)
    return np.divide(matrix_KK, total, out=np.full(matrix_KK.shape, np.nan), where=total > 0)


def check_suffix(file: str | Path) -> Path:
    """The path, after a check that its ending is that of a format of confusion matrices.

    Raises:
        ValueError: It has another ending.
    """
    path = Path(file)
    if path.suffix not in MATRIX_SUFFIXES:
        raise ValueError(
            f'{path}: a confusion matrix is written as {" or ".join(MATRIX_SUFFIXES)}; give a name with such an ending'
        )
    return path


def write_confusion(file: str | Path, matrix_KK: np.ndarray, classes: Sequence[str]) -> None:
    """Write a matrix: ``.npy`` holds only the numbers, ``.csv`` has the class names in its first row and column."""
    path = check_suffix(file)
    if path.suffix == '.npy':
        stream = io.BytesIO()
        np.save(stream, matrix_KK)
        AtomicLocalBackend().put(stream.getvalue(), path)
        return
    with whole_file(path) as partial, open(partial, 'w', newline='', encoding='utf-8') as stream:
        writer = csv.writer(stream)
        writer.writerow(['truth \\ prediction', *classes])
        writer.writerows([name, *row] for name, row in zip(classes, matrix_KK.tolist(), strict=True))


def read_confusion(file: str | Path) -> tuple[np.ndarray, list[str]]:
    """Matrix and class names in a file of :func:`write_confusion`; for ``.npy`` the names are numbers.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It does not hold a square matrix of counts.
    """
    path = check_suffix(file)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: there is no such file')
    try:
        if path.suffix == '.npy':
            matrix = np.load(path, allow_pickle=False)
            names = [str(k) for k in range(len(matrix))]
        else:
            with open(path, newline='', encoding='utf-8') as stream:
                (_, *names), *rows = csv.reader(stream)
            matrix = np.array([[int(number) for number in row[1:]] for row in rows])
    except (ValueError, TypeError) as error:
        raise ValueError(
            f'{path}: this is not a confusion matrix ({error}); write one with confusion_file of SegMetric'
        ) from error
    if matrix.shape != (len(names), len(names)) or matrix.dtype.kind not in 'iu' or matrix.min() < 0:
        raise ValueError(
            f'{path}: a confusion matrix is square and holds counts, but this array has the shape {matrix.shape} and '
            f'type {matrix.dtype}; write one with confusion_file of SegMetric'
        )
    return matrix.astype(np.int64), names

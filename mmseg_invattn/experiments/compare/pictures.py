"""Finds the images on which the heads differ most, and draws the prediction of each head."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

from ...datasets.pictures import to_picture
from .plan import Run

COUNT, WIDTH = 6, 480
RIGHT, WRONG, IGNORED = range(3)
ERROR_COLOURS = [
    (0, 0, 0, 0),
    (226, 74, 51, 255),
    (128, 128, 128, 110),
]  # right is transparent, so that the page shows through
# Names and CSS colours for the legend; where a picture is transparent, its background in the page is seen.
ERROR_LEGEND = [
    (name, f'rgb({r} {g} {b} / {a / 255:.2f})' if a else 'var(--stripe)')
    for name, (r, g, b, a) in zip(
        ('right', 'wrong', 'without label'), (ERROR_COLOURS[k] for k in (RIGHT, WRONG, IGNORED)), strict=True
    )
]


def pictures(runs: Mapping[str, Run], ignore_index: int, count: int = COUNT) -> list[dict]:
    """The images on which the heads differ most, in descending order of the difference.

    Args:
        runs: label of a head -> an evaluated run of it, all on the same split.
        ignore_index: label of the pixels that do not count.
        count: number of images.

    Returns:
        For each image ``name``, ``score``, ``image``, ``truth`` (data URIs) and ``heads``, each of which has ``label``,
        ``right`` (share of the pixels), ``prediction`` and ``errors`` (data URIs).
    """
    if len(runs) < 2:
        return []
    dataset = _dataset(next(iter(runs.values())))
    scored = []
    for index in range(len(dataset)):
        _, label, predictions = _seen(dataset, runs, index)
        scored.append((_score(label, list(predictions.values()), ignore_index), index))
    scored.sort(key=lambda pair: (-pair[0], pair[1]))
    palette = np.array(dataset.metainfo['palette'], np.uint8)
    return [
        _picture(dataset, palette, runs, index, score, ignore_index)
        for score, index in _apart(scored, len(dataset) // (4 * count))[:count]
    ]


def _apart(scored: Sequence[tuple[float, int]], gap: int) -> list[tuple[float, int]]:
    """The first images that are further apart than ``gap``, because neighbours may be similar images of a video."""
    chosen: list[tuple[float, int]] = []
    for score, index in scored:
        if score > 0 and all(abs(index - other) > gap for _, other in chosen):
            chosen.append((score, index))
    return chosen


def _score(label: np.ndarray, predictions: Sequence[np.ndarray], ignore_index: int) -> float:
    """Mean over the pixels of 4 r (1 - r) with r the share of the heads that are right; 1 if half of them are."""
    right = np.mean([prediction == label for prediction in predictions], 0)[label != ignore_index]
    return float((4 * right * (1 - right)).mean()) if right.size else 0.0


def _dataset(run: Run) -> object:
    init_default_scope(run.cfg.get('default_scope', 'mmseg'))
    return DATASETS.build(run.cfg.test_dataloader.dataset)


def _seen(dataset: object, runs: Mapping[str, Run], index: int) -> tuple[dict, np.ndarray, dict[str, np.ndarray]]:
    """(sample, label, head -> prediction) of an image."""
    sample = dataset[index]
    files = {name: run.folder / 'evaluation' / 'predictions' / f'{index:05d}.png' for name, run in runs.items()}
    return (
        sample,
        sample['data_samples'].gt_sem_seg.data.squeeze().numpy(),
        {name: cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for name, file in files.items()},
    )


def _picture(
    dataset: object, palette: np.ndarray, runs: Mapping[str, Run], index: int, score: float, ignore_index: int
) -> dict:
    sample, label, predictions = _seen(dataset, runs, index)
    pixels = to_picture(sample['inputs'].numpy().transpose(1, 2, 0))
    valid = label != ignore_index
    heads = []
    for name, prediction in predictions.items():
        errors = np.where(valid, np.where(prediction == label, RIGHT, WRONG), IGNORED)
        heads.append(
            dict(
                label=name,
                right=float((prediction == label)[valid].mean()),
                prediction=_indexed(prediction, palette),
                errors=_indexed(errors, np.array(ERROR_COLOURS)),
            )
        )
    truth = np.where(valid, label, len(palette))
    return dict(
        name=Path(sample['data_samples'].img_path).name,
        score=score,
        image=_photograph(pixels, label.shape),
        truth=_indexed(truth, np.vstack([palette, [[128, 128, 128]]])),
        heads=heads,
    )


def _size(height: int, width: int) -> tuple[int, int]:
    """(width, height) in the page."""
    scale = min(1, WIDTH / width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _photograph(pixels: np.ndarray, shape: tuple[int, int]) -> str:
    image = Image.fromarray(pixels).resize(_size(*shape), Image.Resampling.BILINEAR)
    return _data_uri(image, 'JPEG', quality=80)


def _indexed(values: np.ndarray, colours: np.ndarray) -> str:
    """A map of small numbers with a colour each (RGB or RGBA)."""
    size = _size(*values.shape)
    small = cv2.resize(values.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST)
    if len(colours) > 256:
        return _data_uri(Image.fromarray(colours.astype(np.uint8)[small]), 'PNG', optimize=True)
    image = Image.fromarray(small.astype(np.uint8))
    image.putpalette(colours.astype(np.uint8).tobytes(), 'RGBA' if colours.shape[1] == 4 else 'RGB')
    return _data_uri(image, 'PNG', optimize=True)


def _data_uri(image: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f'data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}'

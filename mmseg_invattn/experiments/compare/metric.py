"""Writes the areas of each image, which a paired comparison resamples, and the predictions for the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS

from ...engine.atomic_backend import AtomicLocalBackend, whole_file
from .statistics import Areas, scores


@METRICS.register_module()
class InvPerImageMetric(BaseMetric):
    """Intersection, predicted and true area of each class in each image, written to ``out_dir/areas.npz``.

    Predictions go to ``out_dir/predictions/NNNNN.png`` in the order of the data set.

    Args:
        out_dir: a folder.
        ignore_index: label of the pixels that do not count.
        collect_device: this and ``prefix`` are as in every metric.
    """

    default_prefix = None

    def __init__(self, out_dir: str, ignore_index: int = 255, collect_device: str = 'cpu', prefix: str | None = None):
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.out_dir, self.ignore_index = Path(out_dir), ignore_index

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count each sample.

        Raises:
            ValueError: a sample has no label.
        """
        classes = len(self.dataset_meta['classes'])
        folder = self.out_dir / 'predictions'
        folder.mkdir(parents=True, exist_ok=True)
        for sample in data_samples:
            if 'gt_sem_seg' not in sample:
                raise ValueError(
                    f'{sample.get("img_path")} has no label: a comparison needs a test_dataloader with '
                    'annotations, such as that of the validation split'
                )
            prediction = sample['pred_sem_seg']['data'].squeeze().cpu().numpy().astype(np.int64)
            label = sample['gt_sem_seg']['data'].squeeze().cpu().numpy().astype(np.int64)
            counts = areas(prediction, label, classes, self.ignore_index)
            _, png = cv2.imencode('.png', prediction.astype(np.uint8 if classes <= 256 else np.uint16))
            AtomicLocalBackend().put(png.tobytes(), folder / f'{len(self.results):05d}.png')
            self.results.append(dict(counts=counts, image=str(sample['img_path'])))

    def compute_metrics(self, results: list[dict]) -> dict:
        counts = np.stack([result['counts'] for result in results])
        with whole_file(self.out_dir / 'areas.npz') as partial:
            np.savez_compressed(partial, counts=counts, images=[result['image'] for result in results])
        found = scores(Areas(counts).total())
        return dict(mIoU=found.miou, aAcc=found.aacc)


def areas(prediction: np.ndarray, label: np.ndarray, classes: int, ignore_index: int) -> np.ndarray:
    """(intersection, predicted, true) pixels of every class in one image, int64 of shape (3, classes)."""
    valid = label != ignore_index
    prediction, label = prediction[valid], label[valid]
    return np.stack(
        [np.bincount(values, minlength=classes)[:classes] for values in (label[prediction == label], prediction, label)]
    )

"""IoUMetric that writes predictions into the sub-folders of their images, and accepts data without labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.logging import print_log
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS

from ..wording import counted
from .prediction_files import PredictionFolder, label_values, png_of, submitted_values


@METRICS.register_module()
class WritingIoUMetric(IoUMetric):
    """``IoUMetric`` with the same scores, but other files.

    With ``output_dir`` each prediction is a PNG in the sub-folder of its image, with the values of the label files
    (from 1 with ``reduce_zero_label``). With ``format_only``, and for images without labels, there are no scores, and
    the PNGs have the values that a benchmark expects: label ids for Cityscapes, otherwise those of the label files.

    Args:
        *args: Arguments of ``IoUMetric``, like ``kwargs``.

    Raises:
        ValueError: ``format_only`` without ``output_dir``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.format_only and not self.output_dir:
            raise ValueError(
                'format_only=True only writes predictions, but output_dir is not set: set it to a folder, '
                'or give --out DIR'
            )
        self.prediction_files = PredictionFolder()

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Write and compare the prediction of each sample.

        Raises:
            ValueError: A sample has no label, and there is no folder to write its prediction to.
        """
        for sample in data_samples:
            scored = 'gt_sem_seg' in sample and not self.format_only
            if self.output_dir:
                self._write(sample, scored)
            elif not scored:
                raise ValueError(
                    f'{sample.get("img_path")} has no label, so its prediction cannot be scored: give --out DIR '
                    '(output_dir of the evaluator) to write the predictions, or let the pipeline load labels'
                )
            if scored:
                self.compare(sample)
            else:
                self.results.append(
                    None
                )  # one result per sample, because MMEngine drops the results of repeated samples

    def compare(self, sample: dict) -> None:
        """Append the result of ``IoUMetric`` for a sample with a label."""
        folder, self.output_dir = self.output_dir, None  # so that IoUMetric does not write a file too
        try:
            super().process({}, [sample])
        finally:
            self.output_dir = folder

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The metrics of all samples; empty if no sample has a label.

        Raises:
            ValueError: Only some of the samples have a label.
        """
        scored = [result for result in results if result is not None]
        if not scored:
            print_log(
                f'{counted(len(results), "prediction")} written to {self.output_dir}. There are no scores, because '
                + ('format_only is set' if self.format_only else 'the test data have no labels'),
                logger='current',
            )
            return {}
        if len(scored) < len(results):
            raise ValueError(
                f'only {len(scored)} of {counted(len(results), "image")} have labels, and a score over these would '
                'look like one over all: test the images with labels and those without separately'
            )
        return self.scores(scored)

    def scores(self, results: list) -> dict[str, float]:
        """The metrics of samples with labels."""
        return super().compute_metrics(results)

    def _write(self, sample: dict, scored: bool) -> None:
        labels = sample['pred_sem_seg']['data'].squeeze(0).cpu().numpy()
        classes, reduced = self.dataset_meta['classes'], bool(sample.get('reduce_zero_label', False))
        values = label_values(labels, len(classes), reduced) if scored else submitted_values(labels, classes, reduced)
        self.prediction_files.write(self.output_dir, sample['img_path'], png_of(values))

"""IoUMetric whose files keep the sub-folders of their images, and which scores nothing where there are no labels."""

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
    """``IoUMetric`` with files and results as follows; its numbers are the same.

    With ``output_dir`` each prediction is a PNG in the sub-folder of its image, in the values of the label files: with
    ``reduce_zero_label`` from 1. With ``format_only``, and for images without labels, it has the values that the
    benchmark takes, which are the label ids for Cityscapes; then there are no scores.

    Args:
        *args: Those of ``IoUMetric``, as are ``kwargs``.

    Raises:
        ValueError: ``format_only`` without ``output_dir``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.format_only and not self.output_dir:
            raise ValueError(
                'format_only=True writes predictions and scores nothing, and output_dir does not say where: set it, '
                'or give --out DIR'
            )
        self.prediction_files = PredictionFolder()

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Write and compare the prediction of each sample.

        Raises:
            ValueError: There is neither a label to compare it with nor a folder to write it to.
        """
        for sample in data_samples:
            scored = 'gt_sem_seg' in sample and not self.format_only
            if self.output_dir:
                self._write(sample, scored)
            elif not scored:
                raise ValueError(
                    f'{sample.get("img_path")} has no label, so that there is nothing to score: give --out DIR '
                    '(output_dir of the evaluator) to write the predictions, or let the pipeline load labels'
                )
            if scored:
                self.compare(sample)
            else:
                self.results.append(None)  # one result a sample: MMEngine drops those that are repeated

    def compare(self, sample: dict) -> None:
        """Append what ``IoUMetric`` keeps of a sample with a label."""
        folder, self.output_dir = self.output_dir, None  # it would write, too
        try:
            super().process({}, [sample])
        finally:
            self.output_dir = folder

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The metrics of all samples; none where no sample has a label.

        Raises:
            ValueError: Some have one and others have not.
        """
        scored = [result for result in results if result is not None]
        if not scored:
            print_log(
                f'{counted(len(results), "prediction")} written to {self.output_dir}; '
                + ('format_only is set: no scores' if self.format_only else 'the test data have no labels: no scores'),
                logger='current',
            )
            return {}
        if len(scored) < len(results):
            raise ValueError(
                f'{len(scored)} of {counted(len(results), "image")} have labels, and a score over a part would pass '
                'for one over all: test the data with labels and those without on their own'
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

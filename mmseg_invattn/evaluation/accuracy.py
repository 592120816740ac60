"""Share of the images whose class is predicted correctly."""

from collections.abc import Sequence

from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS

from ..wording import counted


@METRICS.register_module()
class ClassificationAccuracy(BaseMetric):
    """``accuracy/top1`` and others for each k of ``topk``, in per cent.

    Args:
        topk: a prediction counts as correct if the class is among the k with the highest scores.
        collect_device: as in every metric.
    """

    def __init__(self, topk: Sequence[int] = (1,), collect_device: str = 'cpu'):
        super().__init__(collect_device)
        if not topk or any(k < 1 for k in topk):
            raise ValueError(f'topk={tuple(topk)} must be positive numbers of classes, such as (1, 5)')
        self.topk = tuple(topk)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """One result for each image: the rank of its class, 0 for the highest score.

        Raises:
            ValueError: a k is larger than the number of classes.
        """
        for sample in data_samples:
            scores = sample['scores']
            if max(self.topk) > len(scores):
                raise ValueError(
                    f'topk={self.topk}, but the model has only {counted(len(scores), "class")}: choose smaller numbers'
                )
            # among equal scores the class counts as the last, so that a constant output is not correct
            rank = int((scores >= scores[sample['gt_label']]).sum()) - 1
            self.results.append(rank if scores.isfinite().all() else len(scores))

    def compute_metrics(self, results: list[int]) -> dict[str, float]:
        return {f'accuracy/top{k}': 100 * sum(rank < k for rank in results) / len(results) for k in self.topk}

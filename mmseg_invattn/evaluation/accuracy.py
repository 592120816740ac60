"""Share of the images whose class is predicted."""

from collections.abc import Sequence

from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS

from ..wording import counted


@METRICS.register_module()
class ClassificationAccuracy(BaseMetric):
    """``accuracy/top1`` and its like, in per cent.

    Args:
        topk: a prediction is right where the class is among the k of the highest score.
        collect_device: as in every metric.
    """

    def __init__(self, topk: Sequence[int] = (1,), collect_device: str = 'cpu'):
        super().__init__(collect_device)
        if not topk or any(k < 1 for k in topk):
            raise ValueError(f'topk={tuple(topk)} are not positive numbers of classes')
        self.topk = tuple(topk)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """One result for each image: the rank of its class, 0 for the highest score.

        Raises:
            ValueError: more classes asked for than there are.
        """
        for sample in data_samples:
            scores = sample['scores']
            if max(self.topk) > len(scores):
                raise ValueError(
                    f'topk={self.topk} asks for more than the {counted(len(scores), "class")} of the model'
                )
            # among equal scores the class counts as the last: a model that says nothing is not right
            rank = int((scores >= scores[sample['gt_label']]).sum()) - 1
            self.results.append(rank if scores.isfinite().all() else len(scores))

    def compute_metrics(self, results: list[int]) -> dict[str, float]:
        return {f'accuracy/top{k}': 100 * sum(rank < k for rank in results) / len(results) for k in self.topk}

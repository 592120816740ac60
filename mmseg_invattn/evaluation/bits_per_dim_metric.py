"""Negative log-likelihood of images under a flow."""

import math
from collections.abc import Sequence

from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS


@METRICS.register_module()
class BitsPerDimMetric(BaseMetric):
    """Mean of bits per dimension.

    It reads ``bits_per_dim`` and ``bias_bound`` of every image. The metrics are ``bits_per_dim``, its
    ``standard_error`` (over images and random probes together), ``bias_bound`` (the largest bias of a truncated series:
    0 with roulette, NaN without a certificate) and ``images``.

    Args:
        collect_device: this and ``prefix`` are as in every metric.
    """

    default_prefix = 'flow'

    def __init__(self, collect_device: str = 'cpu', prefix: str | None = None):
        super().__init__(collect_device, prefix)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        self.results += [(sample['bits_per_dim'], sample['bias_bound']) for sample in data_samples]

    def compute_metrics(self, results: list[tuple[float, float]]) -> dict[str, float]:
        bits, bounds = zip(*results, strict=True)
        count = len(bits)
        mean = sum(bits) / count
        variance = sum((value - mean) ** 2 for value in bits) / max(count - 1, 1)
        # a count as a float: MMEngine's log has no integers
        return dict(
            bits_per_dim=mean,
            standard_error=math.sqrt(variance / count),
            bias_bound=math.nan if any(map(math.isnan, bounds)) else max(bounds),
            images=float(count),
        )

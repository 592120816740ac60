"""Metrics, prediction files and confusion matrices, and the computational cost of a model."""

from .accuracy import ClassificationAccuracy
from .bits_per_dim_metric import BitsPerDimMetric
from .cityscapes_official_metric import CityscapesOfficialMetric
from .seg_metric import SegMetric
from .writing_iou_metric import WritingIoUMetric

__all__ = ['BitsPerDimMetric', 'CityscapesOfficialMetric', 'ClassificationAccuracy', 'SegMetric', 'WritingIoUMetric']

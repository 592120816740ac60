"""Metrics, the confusion matrix that they count, and the cost of a model."""
from .accuracy import ClassificationAccuracy
from .cityscapes_official_metric import CityscapesOfficialMetric
from .seg_metric import SegMetric

__all__ = ['CityscapesOfficialMetric', 'ClassificationAccuracy', 'SegMetric']

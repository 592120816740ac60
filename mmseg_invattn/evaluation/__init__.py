"""Metrics, and the tables and pictures made of them."""
from .reconstruction_metric import ReconstructionMetric  # noqa: F401

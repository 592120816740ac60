"""Metrics, and the tables and pictures made of them."""
from .bits_per_dim_metric import BitsPerDimMetric  # noqa: F401
from .reconstruction_metric import ReconstructionMetric  # noqa: F401

"""Metrics, and the tables and pictures made of them."""
from .accuracy import ClassificationAccuracy  # noqa: F401

"""Accuracy of classification networks."""

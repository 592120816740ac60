"""Measurements and pictures of trained flows."""

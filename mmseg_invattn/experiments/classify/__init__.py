"""Accuracy of networks that classify."""

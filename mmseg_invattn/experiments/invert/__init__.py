"""Runs the inverses of a model and measures what they recover from an image."""

"""What the inverses of a model recover from an image."""

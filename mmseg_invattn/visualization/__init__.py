"""Pictures of predictions, of attention and of inverses."""

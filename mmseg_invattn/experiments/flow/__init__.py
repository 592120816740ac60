"""What is measured and drawn of trained flows."""

"""A comparison of attention heads: train what is not trained yet, evaluate, and write one report."""

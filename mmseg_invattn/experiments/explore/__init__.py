"""A page that shows where attention looks."""

"""Makes a page that shows where attention looks."""

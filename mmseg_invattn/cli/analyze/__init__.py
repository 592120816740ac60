"""Tables and pictures of runs and models: ``mmseg-invattn analyze NAME``, with one file for each."""

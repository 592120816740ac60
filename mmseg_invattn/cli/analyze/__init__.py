"""Tables and pictures of runs and models: ``mmseg-invattn analyze NAME``, one file each."""

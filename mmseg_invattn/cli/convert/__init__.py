"""Data sets made ready: ``mmseg-invattn convert NAME``, one file each."""

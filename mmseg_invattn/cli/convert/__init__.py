"""Converters that prepare data sets: ``mmseg-invattn convert NAME``, with one file for each."""

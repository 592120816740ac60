"""Parts of ``mmseg-invattn benchmark``: tools to measure (timing, memory, report, session) and the measurements."""

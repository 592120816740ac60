"""Parts of ``mmseg-invattn benchmark``: how to measure (timing, memory, report, session) and what (the rest)."""

"""Parts of ``tools/analysis/benchmark.py``: how to measure (timing, memory, report, session) and what (the rest)."""

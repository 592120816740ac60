"""The experiments that the commands run: comparisons, reconstruction, flows, benchmarks, the explorer."""

from .reconstruct import metric  # noqa: F401  (imported for its registration)

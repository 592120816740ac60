"""Everything that a run needs besides the model: hooks, checkpoints, resuming, inference, logs."""

from . import hooks, log_processor  # noqa: F401  (imported for their registrations)

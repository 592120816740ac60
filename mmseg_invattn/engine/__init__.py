"""What runs around the model: hooks, checkpoints, resuming, the command line of the tools."""

from . import hooks  # noqa: F401  (imported for its registrations)

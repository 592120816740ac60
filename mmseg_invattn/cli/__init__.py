"""The command ``mmseg-invattn``, one file a subcommand."""

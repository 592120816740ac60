"""The command ``mmseg-invattn``, with one file per subcommand."""

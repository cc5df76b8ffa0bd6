"""The command line: commands and their flags, overrides of config fields, exit codes."""

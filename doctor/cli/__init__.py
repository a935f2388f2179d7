"""The command line: commands, their help, errors and events."""

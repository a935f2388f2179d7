"""The command line itself: help, completion, errors and events, whatever the command."""

"""Rules about the installed torch."""

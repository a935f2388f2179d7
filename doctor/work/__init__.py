"""What all that changes a machine has in common: running programs, locks, files that survive a kill, progress."""

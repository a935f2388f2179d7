"""Training: scripts out of a plan, run and followed."""

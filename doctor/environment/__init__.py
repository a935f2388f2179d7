"""A Python environment: what is in it, and how packages get there."""

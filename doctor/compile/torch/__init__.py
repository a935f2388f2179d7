"""Builds PyTorch from source: looks ahead, runs, reads what came out, proves it."""

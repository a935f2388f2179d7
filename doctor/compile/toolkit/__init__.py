"""A CUDA toolkit without root."""

"""Building PyTorch from source, on trees that stand in for it."""

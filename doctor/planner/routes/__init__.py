"""The ways to a PyTorch."""

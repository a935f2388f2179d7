"""nanochat-doctor: looks at a machine, says what is wrong, and finds a PyTorch that runs there."""

__version__ = "0.1.0"

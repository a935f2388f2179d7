"""PyTorch's source tree and its build folder."""

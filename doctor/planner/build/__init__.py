"""What a build of PyTorch from source would be."""

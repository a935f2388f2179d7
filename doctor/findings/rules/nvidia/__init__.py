"""Rules about NVIDIA GPUs."""

"""Probes of NVIDIA GPUs."""

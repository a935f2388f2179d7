"""Builds PyTorch from source: plan, preflight, run, read what came out, prove it."""

from doctor.builder.torch_source.planning import plan_build

__all__ = ["plan_build"]

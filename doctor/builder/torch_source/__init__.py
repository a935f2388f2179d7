"""Builds PyTorch from source: plan, preflight, run, read what came out, prove it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from doctor.builder.torch_source.planning import plan_build

__all__ = ["plan_build"]


def __getattr__(name: str) -> Any:
    """Load the planning when it is asked for: every command of the tool imports this package."""
    if name == "plan_build":
        from doctor.builder.torch_source import planning

        return planning.plan_build
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

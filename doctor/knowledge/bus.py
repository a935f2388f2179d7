"""Addresses on the PCI bus."""

from __future__ import annotations


def bus_key(bus_id: str | None) -> str:
    """A bus address as sysfs writes it, from nvidia-smi's `00000000:C1:00.0`."""
    parts = (bus_id or "").lower().split(":")
    return ":".join([parts[0][-4:], *parts[1:]]) if len(parts) == 3 else (bus_id or "").lower()

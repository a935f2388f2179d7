"""What CUDA_VISIBLE_DEVICES leaves of a machine's GPUs.

Rules (CUDA C++ Programming Guide, "CUDA Environment Variables"): unset shows all, empty none; the
list ends at the first entry that names no device; numbers count in CUDA's order, which is the
fastest first unless CUDA_DEVICE_ORDER=PCI_BUS_ID; a UUID may be shortened as long as it is unique.
A device named twice leaves none (torch/cuda/__init__.py, _parse_visible_devices).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from doctor.facts import Gpu
from doctor.knowledge.bus import bus_key

LOST = re.compile(r"lost|fallen off the bus", re.IGNORECASE)
"""A card that is no longer there is no device of CUDA's."""


@dataclass(frozen=True)
class Visible:
    """Indices (of nvidia-smi) that remain, in CUDA's order, and entries that name nothing."""

    indices: tuple[int, ...]
    invalid: tuple[str, ...]


def visible_devices(env: Mapping[str, str], gpus: Sequence[Gpu]) -> Visible:
    """Apply CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER to a machine's GPUs."""
    ordered = cuda_order(gpus, env.get("CUDA_DEVICE_ORDER"))
    usable = [
        g
        for g in ordered
        if (g.mig_mode != "Enabled" or g.mig_instances) and not any(map(LOST.search, g.faults))
    ]
    mask = env.get("CUDA_VISIBLE_DEVICES")
    if mask is None:
        return Visible(tuple(g.index for g in usable), ())
    chosen: list[int] = []
    refused = ("", "-1", "NoDevFiles", "none", "void")
    for entry in (part.strip() for part in mask.split(",")):
        gpu = _named(entry, usable)
        if gpu is None:
            return Visible(tuple(chosen), () if entry in refused else (entry,))
        if gpu.index not in chosen:
            chosen.append(gpu.index)
        elif not entry.startswith("MIG-"):
            return Visible((), (entry,))
    return Visible(tuple(chosen), ())


def _named(entry: str, gpus: Sequence[Gpu]) -> Gpu | None:
    if entry.isascii() and entry.isdigit():
        return gpus[int(entry)] if int(entry) < len(gpus) else None
    if entry.startswith("GPU-"):
        matches = [g for g in gpus if (g.uuid or "").lower().startswith(entry.lower())]
        return matches[0] if len(matches) == 1 else None
    if entry.startswith("MIG-"):
        return next((g for g in gpus if any(entry in i for i in g.mig_instances)), None)
    return None


def cuda_order(gpus: Sequence[Gpu], order: str | None) -> list[Gpu]:
    """GPUs as CUDA numbers them.

    What CUDA takes for fast is not published; newer architecture, then more memory, agrees with
    it wherever one card is clearly the better one.
    """
    by_bus = sorted(gpus, key=lambda g: (bus_key(g.bus_id), g.index))
    if order == "PCI_BUS_ID":
        return by_bus
    # by kind, since cards of one kind differ by a few MiB and keep the order of the bus
    largest: dict[str | None, int] = {}
    for gpu in gpus:
        largest[gpu.name] = max(largest.get(gpu.name, 0), gpu.memory_total or 0)
    return sorted(
        by_bus,
        key=lambda gpu: (float(gpu.compute_capability or 0), largest[gpu.name]),
        reverse=True,
    )

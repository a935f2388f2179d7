"""Rules about accelerators that this version has no family for: never «no accelerator», and never a promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from doctor.facts import OtherAccelerator
from doctor.findings.context import Context, joined
from doctor.findings.finding import INFO, WARNING, Finding

FLAVOURS = {"rocm": "for AMD GPUs (ROCm)", "xpu": "for Intel GPUs (XPU)"}
"""Builds of torch for other devices than those of a family."""

DISPLAY_ONLY = "radeon"
"""The kernel driver of AMD cards that are too old for any compute software."""


def unsupported(c: Context) -> Iterator[Finding]:
    """GPUs of AMD and Intel, Gaudi and the like: named, and told what trains here instead."""
    host, torch = c.facts.host, c.torch
    found = host.accelerators if host else ()
    build = FLAVOURS.get(str(torch.flavour)) if torch else None
    if not found and not (torch and build):
        return
    if c.has_nvidia or c.has_npu:
        found = tuple(d for d in found if not d.integrated)
        if not found:
            return
    cards = [d for d in found if not d.integrated and d.driver != DISPLAY_ONLY]
    # graphics of a processor are no news to their owner, unless a torch was installed for them
    grave = bool(cards or build) and not (c.has_nvidia or c.has_npu)
    yield c.finding(
        "host.accelerator-unsupported",
        WARNING if grave else INFO,
        _what(c, cards or found) + _torch_of(c, build),
        [f"{d.address}: {d.vendor_id[2:]}:{d.device_id[2:]}" for d in found[:4]]
        or [f"torch {torch.version if torch else ''}"],
        "Training uses the devices of the families that this version has."
        if c.has_nvidia or c.has_npu
        else "Train on the CPU here, or on a machine with an NVIDIA GPU, an Ascend NPU or Apple silicon.",
    )


def _what(c: Context, found: Sequence[OtherAccelerator]) -> str:
    if not found:
        return "No accelerator was found"
    software = joined(list(dict.fromkeys(d.software for d in found if d.software)))
    family = (
        f"for which this version has no device family yet{f' ({software})' if software else ''}"
    )
    unused = "it stays unused" if c.has_nvidia or c.has_npu else "training runs on the CPU"
    return f"This machine has {names(found)}, {family}: {unused}"


def _torch_of(c: Context, build: str | None) -> str:
    if c.torch is None or build is None:
        return "."
    return f". The installed torch {c.torch.version} is a build {build}; the CPU does the work with it."


def names(found: Sequence[OtherAccelerator]) -> str:
    """`8 × AMD Instinct MI355X`."""
    counts = Counter(f"{d.vendor or 'vendor ' + d.vendor_id} {d.name}" for d in found)
    return joined([name if n == 1 else f"{n} × {name}" for name, n in counts.items()])


RULES = (unsupported,)

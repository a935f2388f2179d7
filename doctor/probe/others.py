"""Accelerators of other makers, by what the PCI bus shows: named, though this version has no family for them."""

from __future__ import annotations

from doctor.errors import Unknown
from doctor.facts import OtherAccelerator
from doctor.knowledge.tables import Tables
from doctor.machine.system import System
from doctor.probe.host import pci

DISPLAY, PROCESSING = "0x03", "0x12"
"""Beginnings of PCI classes: display controllers, processing accelerators."""

LISTED = (DISPLAY, PROCESSING, "0x0880", "0x0b40")
"""Classes under which devices with a row of their own are found (AWS Neuron is a system peripheral)."""

OWN_FAMILIES = ("0x10de", "0x19e5")
"""NVIDIA and Huawei have probes of their own."""

INTEL_GRAPHICS = "00:02.0"
"""Where the graphics of an Intel processor lie on its bus."""


def probe(system: System, tables: Tables) -> tuple[OtherAccelerator, ...]:
    """Devices in bus order; what a maker's table does not name has its number for a name."""
    found = []
    for address in system.names(pci.BUS):
        try:
            device = _device(system, tables, address)
        except Unknown:
            continue
        if device is not None:
            found.append(device)
    return tuple(found)


def _device(system: System, tables: Tables, address: str) -> OtherAccelerator | None:
    folder = f"{pci.BUS}/{address}"
    kind = pci.word(system, f"{folder}/class")
    if not kind.startswith(LISTED):
        return None
    vendor_id = pci.word(system, f"{folder}/vendor")
    device_id = pci.word(system, f"{folder}/device")
    vendor, row = tables.vendor(vendor_id), tables.other_accelerator(vendor_id, device_id)
    counts = kind.startswith(PROCESSING) or (vendor and vendor["gpu"] and kind.startswith(DISPLAY))
    if vendor_id in OWN_FAMILIES or not (row or counts):
        return None
    graphics = (
        vendor_id == "0x8086" and kind.startswith(DISPLAY) and address.endswith(INTEL_GRAPHICS)
    )
    what = "GPU" if kind.startswith(DISPLAY) else "accelerator"
    return OtherAccelerator(
        address=address.lower(),
        vendor_id=vendor_id,
        device_id=device_id,
        vendor=str(vendor["name"]) if vendor else None,
        name=str(row["name"]) if row else f"{what} {device_id[2:]}",
        software=str(vendor["software"]) if vendor else None,
        integrated=graphics or bool(row and row.get("integrated")),
        driver=pci.driver(system, folder),
    )

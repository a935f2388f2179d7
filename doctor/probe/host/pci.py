"""Devices of one vendor on the PCI bus; they are there whatever driver is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from doctor.errors import Unknown
from doctor.facts import PciDevice
from doctor.machine.system import System

BUS = "/sys/bus/pci/devices"


def devices(
    system: System,
    vendor: str,
    classes: tuple[str, ...],
    describe: Callable[[str], Mapping[str, str]],
) -> tuple[PciDevice, ...]:
    """Devices of a vendor whose class code begins with one of `classes`, in bus order.

    Args:
        vendor: `0x10de`.
        classes: `0x0300` (VGA), `0x0302` (3D), `0x1200` (processing accelerator), …
        describe: device id -> `chip` and `compute_capability`, as far as they are known.
    """
    found = []
    for address in system.names(BUS):
        folder = f"{BUS}/{address}"
        try:
            if word(system, f"{folder}/vendor") != vendor:
                continue
            kind = word(system, f"{folder}/class")
            device_id = word(system, f"{folder}/device")
        except Unknown:
            continue
        # a virtual function is a part of the card in front of it, lent to virtual machines
        if not kind.startswith(classes) or system.exists(f"{folder}/physfn"):
            continue
        described = describe(device_id)
        found.append(
            PciDevice(
                address=address.lower(),
                vendor_id=vendor,
                device_id=device_id,
                driver=driver(system, folder),
                chip=described.get("chip"),
                compute_capability=described.get("compute_capability"),
            )
        )
    return tuple(found)


def driver(system: System, folder: str) -> str | None:
    """Name of the kernel driver that is bound to a device; a copied sysfs has the link and not what it leads to."""
    real = system.real(f"{folder}/driver")
    return None if real == f"{system.real(folder)}/driver" else real.rsplit("/", 1)[-1]


def word(system: System, path: str) -> str:
    """A number of sysfs, `0x10de`; empty where there is none.

    Raises:
        Unknown: it cannot be read.
    """
    return (system.text(path) or "").strip().lower()

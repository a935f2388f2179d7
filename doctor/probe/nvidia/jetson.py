"""Jetson: the GPU of a Tegra chip, which is on no PCI bus (before Thor) and has a driver of its own.

Linux for Tegra says itself in /etc/nv_tegra_release; a container sees neither that nor the device
tree, but the name of the kernel, /sys/devices/soc0 and the device nodes that it was given.
"""

from __future__ import annotations

import re

from doctor.facts import Gpu, Jetson
from doctor.knowledge.tables import Row, Tables
from doctor.machine.system import System
from doctor.probe.nvidia.nvidia_smi import DriverAnswer

RELEASE = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")
PACKAGE = re.compile(r"^Package: nvidia-l4t-core\n(?:.+\n)*?Version: ([\d.]+)", re.MULTILINE)
COMPATIBLE = re.compile(r"nvidia,(tegra\d+)")

NODES = ("nvhost-", "nvgpu", "nvmap")
"""Beginnings of the names that the GPU's drivers (nvgpu, nvhost) give their nodes."""

LIBRARY_FOLDERS = ("tegra", "nvidia")
"""Where L4T keeps libcuda, called 1.1 whatever the driver."""

GPU_NODES = ("/dev/nvhost-gpu", "/dev/nvhost-ctrl-gpu", "/dev/nvgpu")
"""Those of the GPU itself; without one of them CUDA finds no device."""


def probe(system: System, tables: Tables) -> Jetson | None:
    """Describe the Tegra chip; None on any other machine."""
    kernel = (system.text("/proc/sys/kernel/osrelease") or "").strip()
    compatible = COMPATIBLE.findall(_tree(system, "compatible"))
    nodes = tuple(sorted({path for name in NODES for path in system.glob("/dev", name)}))
    release = _release(system)
    soc = system.text("/sys/devices/soc0/family") or ""
    if not (compatible or nodes or release or "tegra" in soc.lower() or "-tegra" in kernel):
        return None
    model = _tree(system, "model").strip("\0\n ") or None
    chip = _chip(tables, model, compatible, (system.text("/sys/devices/soc0/soc_id") or "").strip())
    row = tables.l4t(release) if release else None
    return Jetson(
        model=model,
        chip=str(chip["name"]) if chip else None,
        compute_capability=str(chip["cc"]) if chip else None,
        l4t=release,
        jetpack=str(row["jetpack"]) if row else None,
        nodes=nodes,
        has_gpu_node=any(system.exists(path) for path in GPU_NODES),
    )


def _tree(system: System, name: str) -> str:
    """A text of the device tree; its parts are divided by NUL."""
    return system.text(f"/proc/device-tree/{name}") or ""


def _release(system: System) -> str | None:
    """`36.4.3`."""
    match = RELEASE.search(system.text("/etc/nv_tegra_release") or "")
    if match:
        return f"{match[1]}.{match[2]}"
    if not system.exists("/var/lib/dpkg/info/nvidia-l4t-core.list"):
        return None
    package = PACKAGE.search(system.text("/var/lib/dpkg/status") or "")
    return package[1] if package else None


def _chip(tables: Tables, model: str | None, compatible: list[str], soc_id: str) -> Row | None:
    """The chip's row: by the board's name, which is never of another chip, else by its own."""
    rows = tables.rows("jetson", "chip")
    named = (row for row in rows if model and re.search(row["model"], model))
    listed = (row for row in rows if row["compatible"] in compatible)
    numbered = (row for row in rows if row["soc_id"] == soc_id)
    return next(named, None) or next(listed, None) or next(numbered, None)


def answer(tegra: Jetson, tables: Tables, kernel: str | None) -> DriverAnswer:
    """What a driver would say of the chip's GPU: JetPack before 6 has no nvidia-smi.

    Args:
        kernel: version of the display module, which is L4T's own; headless machines load none.
    """
    row = tables.l4t(tegra.l4t) if tegra.l4t else None
    gpu = Gpu(index=0, name=tegra.chip or tegra.model, compute_capability=tegra.compute_capability)
    return DriverAnswer(
        source="L4T",
        gpus=(gpu,),
        driver_version=kernel or (str(row["driver"]) if row else None),
        driver_cuda=str(row["cuda"]) if row else None,
    )

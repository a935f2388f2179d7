"""What stands between a driver that answers and CUDA: its device nodes, its library, who chose the cards."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from doctor.errors import Unknown
from doctor.knowledge.tables import Tables
from doctor.machine.system import System

UVM = "/dev/nvidia-uvm"

MODPROBE = ("/usr/bin/nvidia-modprobe", "/usr/local/bin/nvidia-modprobe", "/sbin/nvidia-modprobe",
            "/run/current-system/sw/bin/nvidia-modprobe")  # fmt: skip
"""With it, CUDA makes the node by itself at its first start; never inside of a container."""

TEGRA = ("/dev/nvhost-ctrl", "/dev/nvhost-ctrl-gpu", "/dev/nvmap", "/dev/nvhost-gpu")
"""A Jetson's GPU is reached through these, and CUDA needs no nvidia-uvm there."""

STRAYS = ("/usr/lib/wsl/lib", "/run/opengl-driver/lib", "/usr/local/nvidia/lib64",
          "/usr/local/nvidia/lib", "/.singularity.d/libs", "/usr/lib/nvidia",
          "/usr/lib/x86_64-linux-gnu/nvidia/current", "/usr/lib/aarch64-linux-gnu/nvidia/current",
          "/usr/lib64/nvidia", "/opt/nvidia/lib64")  # fmt: skip
"""Folders of drivers that distributions and container runtimes put onto the loader's path, or forget to."""

LIBRARY = "libcuda.so.1"


def uvm(system: System) -> str | None:
    """State of the node without which cuInit fails though nvidia-smi works; None where none is needed."""
    if any(system.exists(node) for node in TEGRA):
        return None
    if system.exists(UVM):
        return "there"
    return "on demand" if any(system.is_file(path) for path in MODPROBE) else "missing"


def closed(system: System, nodes: Sequence[str]) -> tuple[str, ...]:
    """Nodes that are there and may not be opened; the kernel asks a cgroup's device rules too."""
    more = [path for path in ("/dev/nvidiactl", UVM) if system.exists(path)]
    mode = os.R_OK | os.W_OK
    return tuple(path for path in (*nodes, *more) if system.may(path, mode) is False)


def choosers(system: System, tables: Tables) -> tuple[str, ...]:
    """Schedulers and variables that may leave this process only some of the machine's cards."""
    return tuple(
        str(row["name"])
        for row in tables.rows("cards", "chooser")
        if any(name in system.env for name in row["variables"])
    )


def stray_library(system: System) -> str | None:
    """A libcuda that the loader does not find though it is there."""
    for folder in STRAYS:
        with contextlib.suppress(Unknown):
            if system.exists(f"{folder}/{LIBRARY}"):
                return f"{folder}/{LIBRARY}"
    return None

"""Rules about Jetsons: a GPU that is a part of the chip, with nodes and libraries of its own."""

from __future__ import annotations

from collections.abc import Iterator

from doctor.facts import Jetson
from doctor.findings.context import Context
from doctor.findings.finding import ERROR, Finding


def tegra_gpu(c: Context) -> Iterator[Finding]:
    """A Tegra chip whose GPU a process does not reach: nodes or libcuda were not given, or are gone."""
    nvidia, host, tegra = c.facts.nvidia, c.facts.host, c.jetson
    if nvidia is None or tegra is None or nvidia.pci_devices:
        return
    container = host.container if host else None
    if not tegra.has_gpu_node:
        yield c.finding(
            "cuda.no-devices-visible" if container else "cuda.driver-missing",
            ERROR,
            f"This is {board(tegra)}, and the device nodes of its GPU (/dev/nvhost-gpu, /dev/nvgpu) are not here.",
            _evidence(tegra),
            "Start the container with `--runtime nvidia` (docker) on the Jetson."
            if container
            else "Load the GPU's kernel driver (nvgpu), which L4T brings with its kernel; with a kernel of your own, "
            "build it for that one.",
            [] if container else ["sudo modprobe nvgpu"],
        )
    elif nvidia.driver_library is None:
        yield c.finding(
            "cuda.init-failed" if container else "cuda.driver-missing",
            ERROR,
            f"This is {board(tegra)}, and the loader finds no libcuda.so.1.",
            [*_evidence(tegra), "libcuda.so.1: not found"],
            "Start the container with `--runtime nvidia` (docker), which brings L4T's libraries in."
            if container
            else "Install L4T's CUDA driver library and let the loader find its folder (ldconfig).",
            [] if container else ["sudo apt-get install -y nvidia-l4t-cuda", "sudo ldconfig"],
        )


def board(tegra: Jetson) -> str:
    """`a Jetson (NVIDIA Jetson AGX Orin Developer Kit, JetPack 6, L4T 36.4.3)`."""
    known = [
        tegra.model or tegra.chip,
        f"JetPack {tegra.jetpack}" if tegra.jetpack else None,
        f"L4T {tegra.l4t}" if tegra.l4t else None,
    ]
    words = ", ".join(word for word in known if word)
    return f"a Jetson ({words})" if words else "a Jetson"


def _evidence(tegra: Jetson) -> list[str]:
    lines = [f"/proc/device-tree/model: {tegra.model}"] if tegra.model else []
    lines += [f"/etc/nv_tegra_release: {tegra.l4t}"] if tegra.l4t else []
    lines.append(f"device nodes: {', '.join(tegra.nodes[:3]) or 'none'}")
    return lines


RULES = (tegra_gpu,)

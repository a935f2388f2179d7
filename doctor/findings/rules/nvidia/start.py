"""Rules about what CUDA needs beside a driver that answers: its library, its nodes, the NVSwitch fabric."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

from doctor.facts import Nvidia
from doctor.findings.context import Context
from doctor.findings.finding import ERROR, WARNING, Finding
from doctor.knowledge.card_state import container_cure, forward_compatible
from doctor.knowledge.versions import older, parts

FABRIC_DONE = "completed"


def library(c: Context) -> Iterator[Finding]:
    """A libcuda that is not there, is a stub, or belongs to another driver."""
    nvidia = c.facts.nvidia
    if nvidia is None or not c.has_nvidia:
        return
    if nvidia.driver_library is None:
        yield from _missing(c, nvidia)
    elif "/stubs/" in nvidia.driver_library:
        yield c.finding(
            "cuda.init-failed",
            ERROR,
            f"libcuda.so.1 is taken from {nvidia.driver_library}: a stub to link against, which runs "
            "nothing (error 34).",
            [f"libcuda.so.1: {nvidia.driver_library}"],
            "Take its folder out of LD_LIBRARY_PATH.",
        )
    elif not c.wsl:
        yield from _of_another_driver(c, nvidia)


def _missing(c: Context, nvidia: Nvidia) -> Iterator[Finding]:
    """Nothing where `driver` or the rule of WSL says it: without a driver, or with one that is not on the path."""
    answered = bool(nvidia.source and nvidia.gpus)
    given = bool(c.container and nvidia.kernel_driver and nvidia.device_nodes)
    stray = nvidia.stray_library
    if not (answered or given) or (c.wsl and (stray or not c.container)):
        return
    evidence = (
        [f"nvidia-smi: {c.gpu_names}"] if answered else [f"kernel module: {nvidia.kernel_driver}"]
    )
    evidence.append("libcuda.so.1: not found by the loader")
    if nvidia.driver_capabilities is not None:
        evidence.append(f"NVIDIA_DRIVER_CAPABILITIES={nvidia.driver_capabilities}")
    works = "nvidia-smi works" if answered else "The GPU's device nodes are here"
    commands: list[str] = []
    if stray:
        folder = shlex.quote(os.path.dirname(stray))
        where = f"it lies at {stray}, off the loader's path"
        cure = "Put its folder on the loader's path."
        commands = [f'export LD_LIBRARY_PATH={folder}"${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"']
    elif c.container:
        where = "this container was not given it"
        cure = container_cure(c.container, "compute", c.tables)
    else:
        where = "it is not installed"
        cure = (
            "Install the compute libraries of the same driver: libnvidia-compute (Ubuntu), libcuda1 "
            "(Debian), nvidia-driver-cuda-libs or xorg-x11-drv-nvidia-cuda-libs (Fedora, RHEL)."
        )
    yield c.finding(
        "cuda.driver-missing",
        ERROR,
        f"{works}, but not CUDA: it needs the driver's libcuda.so.1, and {where}.",
        evidence,
        cure,
        commands,
    )


def _of_another_driver(c: Context, nvidia: Nvidia) -> Iterator[Finding]:
    """Errors 803 and 804. A newer libcuda is right where forward compatibility works."""
    module, version = nvidia.kernel_driver, nvidia.library_version
    compat = "compat" in (nvidia.driver_library or "")
    if not module or not version or parts(module) == parts(version):
        return
    if not compat and not nvidia.source:
        return  # `driver` says so: the old module is still loaded
    evidence = [
        f"kernel module: {module}",
        f"libcuda.so.1: {nvidia.driver_library}",
    ]
    cure = (
        "Take the compat folder out of LD_LIBRARY_PATH (and out of /etc/ld.so.conf.d), so that "
        "libcuda.so.1 is the driver's own; torch brings all else that it needs."
        if compat
        else f"Take {os.path.dirname(nvidia.driver_library or '')} out of LD_LIBRARY_PATH, or remove that "
        "copy, so that libcuda.so.1 is the driver's own; after an update of the driver, restart the machine."
    )
    origin = "cuda-compat" if compat else "the loader"
    start = f"libcuda.so.1 is of driver {version} ({origin} takes it from {nvidia.driver_library})"
    if compat:
        start = f"libcuda.so.1 is cuda-compat's, of driver {version}, at {nvidia.driver_library}"
    if older(version, module):
        yield c.finding(
            "cuda.driver-library-mismatch",
            ERROR,
            f"{start}, and older than the kernel module {module}: CUDA does not start (error 803, "
            "unsupported display driver / cuda driver combination).",
            evidence,
            cure,
        )
        return
    works = forward_compatible([gpu.name for gpu in nvidia.gpus], c.tables)
    if works and compat:
        return
    yield c.finding(
        "cuda.driver-library-mismatch",
        ERROR if works is False or not compat else WARNING,
        f"{start}, and newer than the kernel module {module}: forward compatibility, which is for data "
        f"center cards; {c.gpu_names} "
        + ("may refuse it" if works is None and compat else "refuses it")
        + " (error 804, forward compatibility was attempted on non supported HW).",
        evidence,
        cure,
    )


def unified_memory(c: Context) -> Iterator[Finding]:
    """Without /dev/nvidia-uvm nvidia-smi works, and CUDA does not start."""
    nvidia = c.facts.nvidia
    if nvidia is None or not nvidia.device_nodes or not nvidia.kernel_driver or c.wsl:
        return
    if nvidia.uvm != "missing" and not (nvidia.uvm == "on demand" and c.container):
        return
    yield c.finding(
        "cuda.init-failed",
        ERROR if c.container else WARNING,
        f"{c.gpus_are} here, and /dev/nvidia-uvm is not: nvidia-smi works without it, CUDA does not start "
        "(unknown error 999, or no CUDA-capable device).",
        [*nvidia.device_nodes[:2], "/dev/nvidia-uvm: absent"],
        container_cure(c.container, "uvm", c.tables)
        if c.container
        else "Load the module nvidia-uvm, and install nvidia-modprobe, which makes the node when CUDA starts.",
        [] if c.container else ["sudo modprobe nvidia-uvm"],
    )


def fabric(c: Context) -> Iterator[Finding]:
    """Without its fabric manager CUDA answers 802 on every machine with NVSwitch."""
    nvidia = c.facts.nvidia
    if nvidia is None:
        return
    states = [gpu for gpu in nvidia.gpus if gpu.fabric_state]
    waiting = [gpu for gpu in states if (gpu.fabric_state or "").lower() != FABRIC_DONE]
    failed = [gpu for gpu in states if gpu.fabric_status not in (None, "Success")]
    if nvidia.fabric_manager == "not running" and (waiting or not c.container):
        yield c.finding(
            "cuda.init-failed",
            ERROR,
            "The machine has NVSwitch, and the fabric manager is not running or not done: CUDA cannot "
            "start (error 802, system not yet initialized).",
            [f"GPU {gpu.index}: fabric.state {gpu.fabric_state}" for gpu in waiting]
            or ["systemctl is-active nvidia-fabricmanager: not active"],
            f"Start the fabric manager of the driver's own version ({c.driver}) where the switches are: "
            "on this machine, for a virtual machine or a container on its host, for a rack (GB200, GB300) "
            "on its switch trays.",
            [] if c.container else ["sudo systemctl enable --now nvidia-fabricmanager"],
        )
    elif failed:
        yield c.finding(
            "cuda.init-failed",
            ERROR,
            f"The NVSwitch fabric did not take in GPU {', '.join(str(gpu.index) for gpu in failed)} "
            f"({failed[0].fabric_status}): CUDA cannot start on it (error 802), or reaches no other GPU.",
            [f"GPU {gpu.index}: fabric.status {gpu.fabric_status}" for gpu in failed],
            f"Restart the fabric manager, which must be of the driver's own version ({c.driver}), with no "
            "program using the GPUs, and read its log.",
            [] if c.container else ["journalctl -u nvidia-fabricmanager -n 50"],
        )


RULES = (library, unified_memory, fabric)

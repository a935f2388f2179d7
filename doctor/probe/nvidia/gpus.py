"""NVIDIA GPUs: what is on the bus, what the driver says, what a CUDA process would see.

The driver is asked through NVML on a live machine and through nvidia-smi otherwise; where neither
answers, the bus and /proc still tell which cards there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from doctor.errors import Unknown
from doctor.facts import Gpu, KernelModule, Nvidia, PciDevice
from doctor.knowledge.bus import bus_key
from doctor.knowledge.tables import Tables
from doctor.machine.background import Background
from doctor.machine.linker import Linker
from doctor.machine.look import Look, find_version
from doctor.machine.pyenv import PythonEnvironment
from doctor.machine.system import NOT_RUN, System
from doctor.probe.host import pci
from doctor.probe.nvidia import access, jetson, kernel_module, libraries, nvidia_smi
from doctor.probe.nvidia import toolkits as nvidia_toolkits
from doctor.probe.nvidia.nvidia_smi import DriverAnswer
from doctor.probe.nvidia.visibility import visible_devices

VENDOR = "0x10de"
GPU_CLASSES = ("0x0300", "0x0302")
NVSWITCH_CLASSES = ("0x0680",)

KERNEL_MODULE = re.compile(r"Kernel Module(?:\s+for \S+)?\s+(\d+(?:\.\d+)+)")

NODE = re.compile(r"/dev/nvidia\d+")

NOT_IN_FABRIC = ("in progress", "not started")
"""nvidia-smi's words for a GPU that waits for the fabric manager."""

OLDEST_DRIVER = 100

NVML_SECONDS = 4.0
"""A driver that hangs keeps NVML from ever returning; the bus and /proc still answer then."""


def start(system: System) -> None:
    """Begin to run the programs that `probe` will ask."""
    nvidia_smi.start(system, several=len(_nodes(system)) > 1)


def _nodes(system: System) -> list[str]:
    return [path for path in system.glob("/dev", "nvidia") if NODE.fullmatch(path)]


def probe(system: System, linker: Linker, tables: Tables, env: PythonEnvironment | None) -> Nvidia:
    """Describe all that concerns NVIDIA GPUs."""
    look = Look()
    on_bus = look("pci_devices", _on_bus, system, tables) or ()
    nodes = tuple(_nodes(system))
    kernel = look("kernel_driver", _kernel_driver, system)
    library = look("driver_library", _driver_library, system, linker)
    if system.exists("/dev/dxg") and (library or _wsl_driver(system)):
        nodes = (*nodes, "/dev/dxg")
    tegra = look("jetson", jetson.probe, system, tables)
    there = bool(on_bus or nodes or library)
    answer = _ask_driver(system, look, there)
    if tegra and not on_bus and not answer.gpus and tegra.has_gpu_node:
        answer = jetson.answer(tegra, tables, kernel)
    gpus = answer.gpus or tuple(_gpus_without_driver(system, on_bus))
    if not gpus and not system.runs and (kernel or library):
        gpus = tuple(_gpus_of_bus(on_bus))
    gpus = _with_addresses(gpus, on_bus)
    gpus = tuple(_with_capability(gpu, on_bus, tables) for gpu in gpus)
    visible = visible_devices(system.env, gpus)
    toolkits = nvidia_toolkits.probe(system, env, tables)
    return Nvidia(
        pci_devices=on_bus,
        device_nodes=nodes,
        kernel_driver=kernel,
        kernel_open=look("kernel_open", _kernel_open, system),
        conflicting_module=None if kernel else _conflicting_module(system, on_bus),
        module=None if kernel or not on_bus else look("module", _module, system, tables),
        jetson=tegra,
        driver_version=answer.driver_version or _driver_by_files(library, kernel),
        driver_cuda=answer.driver_cuda,
        driver_library=library,
        library_version=_version_in_name(library),
        stray_library=None if library else access.stray_library(system),
        uvm=access.uvm(system) if kernel and not tegra else None,
        closed_nodes=access.closed(system, nodes),
        choosers=access.choosers(system, tables) if there else (),
        driver_capabilities=system.env.get("NVIDIA_DRIVER_CAPABILITIES"),
        source=answer.source,
        smi_error=answer.error,
        gpus=gpus,
        topology=look("topology", lambda: nvidia_smi.topology(system, len(gpus))) or (),
        fabric_manager=look("fabric_manager", _fabric_manager, system, gpus),
        visible_variable=system.env.get("CUDA_VISIBLE_DEVICES"),
        device_order=system.env.get("CUDA_DEVICE_ORDER"),
        visible=visible.indices,
        invalid_visible=visible.invalid,
        toolkits=toolkits.found,
        nvcc=toolkits.nvcc,
        nvcc_version=toolkits.nvcc_version,
        libraries=tuple(libraries.probe(system, linker)),
        unknown=look.reasons | toolkits.reasons,
    )


def _on_bus(system: System, tables: Tables) -> tuple[PciDevice, ...]:
    return pci.devices(system, VENDOR, GPU_CLASSES, tables.nvidia_chip)


def _wsl_driver(system: System) -> bool:
    """Whether Windows brings an NVIDIA driver: every WSL 2 has /dev/dxg, whatever the card."""
    brought = system.glob("/usr/lib/wsl/lib", "libcuda.so")
    return bool(brought) or system.which("nvidia-smi") is not None


def _driver_by_files(library: str | None, kernel: str | None) -> str | None:
    """The driver is of libcuda's version, unless that is cuda-compat's, which stands before the driver's own."""
    return kernel if kernel and "compat" in (library or "") else _version_in_name(library)


def _kernel_driver(system: System) -> str | None:
    """Version of the loaded kernel module; None where none is loaded."""
    version = (system.text("/sys/module/nvidia/version") or "").strip()
    if version:
        return find_version(version)
    text = system.text("/proc/driver/nvidia/version")
    if text is None:
        return None
    match = KERNEL_MODULE.search(text)
    if match is None:
        raise Unknown("/proc/driver/nvidia/version names no version")
    return match.group(1)


def _kernel_open(system: System) -> bool | None:
    text = system.text("/proc/driver/nvidia/version")
    return None if text is None else "Open Kernel Module" in text


def _conflicting_module(system: System, on_bus: tuple[PciDevice, ...]) -> str | None:
    if any(device.driver == "nouveau" for device in on_bus):
        return "nouveau"
    modules = re.findall(r"^(\w+)", system.text("/proc/modules") or "", re.MULTILINE)
    loaded = "nouveau" in modules or system.exists("/sys/module/nouveau")
    return "nouveau" if loaded and on_bus else None


def _module(system: System, tables: Tables) -> KernelModule:
    kernel = (system.text("/proc/sys/kernel/osrelease") or "").strip()
    return kernel_module.probe(system, tables, kernel or None)


def _driver_library(system: System, linker: Linker) -> str | None:
    path = linker.find("libcuda.so.1")
    return system.real(path) if path else None


def _version_in_name(path: str | None) -> str | None:
    """Driver version from the name of the library that libcuda.so.1 links to."""
    match = libraries.VERSION.search(path or "")
    # WSL and Jetson call it libcuda.so.1.1, which is no version of a driver
    return match.group(1) if match and int(match.group(1).split(".")[0]) >= OLDEST_DRIVER else None


def _ask_driver(system: System, look: Look, there: bool) -> DriverAnswer:
    """NVML, else nvidia-smi; nothing is asked where there is no sign of a GPU."""
    if not there and not system.which("nvidia-smi"):
        return DriverAnswer()
    if not system.runs:
        look.reasons["gpus"] = NOT_RUN
        return DriverAnswer()
    if system.live:
        from doctor.probe.nvidia import nvml

        try:
            return Background(nvml.ask, "NVML").result(NVML_SECONDS)
        except Unknown as error:
            look.reasons["nvml"] = str(error)
    return nvidia_smi.ask(system)


def _gpus_without_driver(system: System, on_bus: tuple[PciDevice, ...]) -> list[Gpu]:
    """Cards that the kernel module lists in /proc, with their names."""
    gpus: list[Gpu] = []
    for address in system.names("/proc/driver/nvidia/gpus"):
        text = system.text(f"/proc/driver/nvidia/gpus/{address}/information") or ""
        name = re.search(r"^Model:\s*(.+?)\s*$", text, re.MULTILINE)
        reason = "the driver did not answer" if system.runs else NOT_RUN
        gpus.append(
            Gpu(
                index=len(gpus),
                name=name.group(1) if name else None,
                bus_id=address,
                unknown={"memory_total": reason, "memory_free": reason},
            )
        )
    return gpus


def _gpus_of_bus(on_bus: tuple[PciDevice, ...]) -> Iterator[Gpu]:
    """Cards of a driver that nothing may be asked of, as the bus has them."""
    for index, device in enumerate(on_bus):
        yield Gpu(
            index=index,
            name=device.chip,
            bus_id=device.address,
            device_id=device.device_id,
            unknown={"memory_total": NOT_RUN, "memory_free": NOT_RUN},
        )


def _with_addresses(gpus: tuple[Gpu, ...], on_bus: tuple[PciDevice, ...]) -> tuple[Gpu, ...]:
    """Give the addresses that no other card has to cards that no longer tell theirs, if all get one."""
    told = {bus_key(gpu.bus_id) for gpu in gpus}
    left = [d.address for d in on_bus if bus_key(d.address) not in told]
    silent = [gpu.index for gpu in gpus if gpu.bus_id is None]
    if len(left) != len(silent):
        return gpus
    found = dict(zip(silent, left, strict=True))
    return tuple(
        replace(gpu, bus_id=found[gpu.index]) if gpu.index in found else gpu for gpu in gpus
    )


def _with_capability(gpu: Gpu, on_bus: tuple[PciDevice, ...], tables: Tables) -> Gpu:
    """Fill in a compute capability that the driver does not tell, from the chip's table row."""
    if gpu.compute_capability is not None:
        return gpu
    ids = {bus_key(device.address): device.device_id for device in on_bus}
    device_id = gpu.device_id or ids.get(bus_key(gpu.bus_id), "")
    known = tables.nvidia_chip(device_id).get("compute_capability")
    reason = (
        "not told by the driver; taken from build/pci.toml" if known else "not told by the driver"
    )
    return replace(
        gpu, compute_capability=known, unknown={**gpu.unknown, "compute_capability": reason}
    )


def _fabric_manager(system: System, gpus: tuple[Gpu, ...]) -> str | None:
    """State of the NVSwitch fabric's manager; None where there is no switch."""
    states = {(gpu.fabric_state or "").lower() for gpu in gpus}
    if states & set(NOT_IN_FABRIC):
        return "not running"
    if states == {"completed"}:
        return "running"
    if not pci.devices(system, VENDOR, NVSWITCH_CLASSES, lambda _: {}):
        return None
    for path in system.glob("/run/nvidia-fabricmanager", suffix=".pid"):
        pid = (system.text(path) or "").strip()
        if pid.isdecimal() and (not system.live or system.exists(f"/proc/{pid}")):
            return "running"
    done = system.run(["systemctl", "is-active", "nvidia-fabricmanager"])
    word = done.stdout.strip()
    if not word:
        raise Unknown("systemctl does not tell the fabric manager's state")
    return "running" if word == "active" else "not running"

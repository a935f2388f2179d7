"""Rules about NVIDIA GPUs, their driver and toolkits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from doctor.facts import Gpu, Nvidia
from doctor.findings.advice import how_to_get_torch, torch_commands
from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, WARNING, Finding
from doctor.findings.rules.nvidia.cards import KERNEL_LOG
from doctor.findings.rules.nvidia.driver import missing as driver_missing
from doctor.findings.rules.nvidia.driver import nothing_listed, serves_none
from doctor.findings.rules.nvidia.driver_install import advice
from doctor.findings.rules.nvidia.silence import explained
from doctor.knowledge import compat
from doctor.knowledge.card_state import container_cure
from doctor.knowledge.drivers import branch_of, serving
from doctor.knowledge.versions import older, parts
from doctor.text.quantities import memory

SMI_ABSENT = "nvidia-smi is not installed"
SMI_NO_NVML = "failed to initialize nvml"
SMI_MISMATCH = "version mismatch"
SMI_LOST = ("lost", "fallen off the bus", "unable to determine the device handle")
SMI_NO_DEVICES = ("no devices were found", "no devices found")
SMI_NO_DRIVER = ("couldn't communicate with the nvidia driver", "driver not loaded", "not loaded")

MEMORY_HELD = 0.5
"""Share of a GPU's memory, held by others, from which on a run is endangered."""


def driver(c: Context) -> Iterator[Finding]:
    """No driver, half a driver, two drivers, or a driver that does not answer."""
    nvidia, host = c.facts.nvidia, c.facts.host
    if (
        nvidia is None
        or not c.has_nvidia
        or _is_jetson(c, nvidia)
        or (nvidia.gpus and nvidia.source)
    ):
        yield from _lost_gpus(c)
        return
    container = host.container if host else None
    wsl = bool(host and host.wsl)
    said = (nvidia.smi_error or "").lower()
    evidence = _driver_evidence(nvidia)
    if SMI_MISMATCH in said or _differs(nvidia, wsl):
        yield c.finding(
            "cuda.driver-library-mismatch",
            ERROR,
            f"The kernel runs the NVIDIA module {nvidia.kernel_driver or '?'} while the libraries "
            f"are {nvidia.driver_version or 'of another version'}: the driver was updated and the "
            "old module is still loaded.",
            evidence,
            "Restart the machine, or unload and load the nvidia modules with no program using them.",
        )
    elif any(mark in said for mark in SMI_LOST):
        yield _lost(c, nvidia.smi_error or "")
    elif _hidden_by_container(nvidia, container):
        yield c.finding(
            "cuda.no-devices-visible",
            ERROR,
            f"The machine has {c.gpu_names} and its kernel runs driver {nvidia.kernel_driver}, but "
            f"this container ({container or 'no device nodes'}) was given no GPU.",
            [*evidence, "no /dev/nvidia0"],
            container_cure(container, "give", c.tables),
        )
    elif any(device.driver == "vfio-pci" for device in nvidia.pci_devices):
        yield c.finding(
            "cuda.no-devices-visible",
            ERROR,
            f"{c.gpus_are} bound to vfio-pci, that is, reserved for a virtual machine.",
            [f"{d.address}: driver {d.driver}" for d in nvidia.pci_devices],
            "Use the GPU inside that machine, or give it back to the nvidia driver.",
        )
    elif (refusal := explained(c, nvidia, evidence)) is not None:
        yield refusal
    elif not wsl and _driver_is_missing(nvidia, container):
        yield driver_missing(c, nvidia, evidence)
    elif any(mark in said for mark in SMI_NO_DEVICES) or nvidia.source or serves_none(c, nvidia):
        yield from nothing_listed(c, nvidia, evidence)
    elif nvidia.smi_error and nvidia.smi_error != SMI_ABSENT:
        yield c.finding(
            "cuda.init-failed",
            ERROR if SMI_NO_NVML in said else WARNING,
            f"Driver {c.driver} is loaded, but gives no usable answer: {nvidia.smi_error}.",
            evidence,
            "Run nvidia-smi by hand, and look at the kernel's log.",
            ["nvidia-smi"] if wsl else ["nvidia-smi", KERNEL_LOG],
        )


def _is_jetson(c: Context, nvidia: Nvidia) -> bool:
    """Whether the GPU is a Tegra chip's own and on no bus: `jetson.tegra_gpu` looks at it."""
    return c.jetson is not None and not nvidia.pci_devices


def _driver_evidence(nvidia: Nvidia) -> list[str]:
    """What was read about the driver."""
    lines = [
        f"/sys/bus/pci/devices/{d.address}: {d.vendor_id[2:]}:{d.device_id[2:]}"
        + (f" ({d.chip})" if d.chip else "")
        for d in nvidia.pci_devices[:4]
    ]
    lines.append(f"kernel module: {nvidia.kernel_driver or nvidia.conflicting_module or 'none'}")
    lines.append(f"libcuda.so.1: {nvidia.driver_library or 'not found'}")
    if nvidia.smi_error:
        lines.append(f"nvidia-smi: {nvidia.smi_error}")
    return lines


def _differs(nvidia: Nvidia, wsl: bool) -> bool:
    """Whether kernel module and library are of two driver versions."""
    return bool(
        not wsl
        and nvidia.kernel_driver
        and nvidia.driver_version
        and not nvidia.source
        and "compat" not in (nvidia.driver_library or "")
        and parts(nvidia.kernel_driver) != parts(nvidia.driver_version)
    )


def _driver_is_missing(nvidia: Nvidia, container: str | None) -> bool:
    """In a container with device nodes a library that is missing is one that was not given (see `library`)."""
    given = container is not None and nvidia.device_nodes
    return nvidia.kernel_driver is None or (nvidia.driver_library is None and not given)


def _hidden_by_container(nvidia: Nvidia, container: str | None) -> bool:
    """The kernel has the driver, and this file system has neither nodes nor libraries."""
    hidden = nvidia.kernel_driver is not None and not nvidia.device_nodes
    return hidden and (container is not None or nvidia.driver_library is None)


def _lost_gpus(c: Context) -> Iterator[Finding]:
    """A machine that answers for most of its GPUs and has lost one."""
    nvidia = c.facts.nvidia
    if nvidia is None or not nvidia.gpus:
        return
    if nvidia.smi_error and any(mark in nvidia.smi_error.lower() for mark in SMI_LOST):
        yield _lost(c, nvidia.smi_error)


def _lost(c: Context, said: str) -> Finding:
    return c.finding(
        "cuda.hardware-fault",
        ERROR,
        f"A GPU no longer answers ({said}).",
        [f"nvidia-smi: {said}"],
        "Restart the machine; if it comes back, look at power, cooling and the seat of the card.",
        ["sudo dmesg | grep -i xid | tail -n 20"],
    )


def driver_age(c: Context) -> Iterator[Finding]:
    """A driver that does not run the CUDA of the installed torch, or of any fitting wheel."""
    driver_version, torch = c.driver, c.torch
    if driver_version is None or not c.has_nvidia or c.has_npu:
        return
    evidence = [f"driver {driver_version}"]
    if torch is not None and torch.flavour == "cuda" and torch.cuda:
        if compat.driver_runs(driver_version, torch.cuda, c.capabilities, c.tables):
            return
        floor = compat.driver_floor(torch.cuda, c.capabilities, c.tables)
        text, commands = _newer_driver(c, floor)
        yield c.finding(
            "cuda.driver-too-old",
            ERROR,
            f"The installed torch {torch.version} is a CUDA {torch.cuda} build and needs driver "
            f"{floor} or newer on {_cards(c.gpus)}; this machine has {driver_version}.",
            [*evidence, f"{torch.path}/version.py: cuda {torch.cuda}", "build/cuda.toml"],
            text,
            commands,
        )
    elif c.jetson:
        return  # what there is for its JetPack is said where torch is missing or of the wrong kind
    elif (torch is None or torch.flavour != "cuda") and c.capabilities and not c.wheels:
        yield from _no_wheel_for_driver(c, driver_version, evidence)


def _newer_driver(c: Context, floor: str | None) -> tuple[str, Sequence[str]]:
    """What to do where the driver is older than torch's CUDA: a torch that it runs comes before a new driver."""
    wheel = next(iter(c.wheels), None)
    last = serving(c.capabilities, c.tables).last
    reachable = floor is not None and not (last and older(last, branch_of(floor)))
    if c.jetson or (not reachable and not wheel):
        return how_to_get_torch(c), torch_commands(c)
    if wheel is None:
        return f"{floor} or newer is needed. {advice(c).text}", advice(c).commands
    runs = f"install torch {wheel.version} ({wheel.variant}), which it runs"
    again = torch_commands(c)
    if not reachable:
        return f"No driver of branch {floor} or newer serves these cards: {runs}.", again
    return f"Update the driver to {floor} or newer or {runs}.", again


def _no_wheel_for_driver(c: Context, driver_version: str, evidence: list[str]) -> Iterator[Finding]:
    """Cards that wheels do have code for, all of them of a CUDA that this driver does not run."""
    host = c.facts.host
    with_code = compat.fitting_wheels(
        c.tables,
        python=None,
        cpu_arch=compat.cpu_arch(host),
        glibc=None,
        devices=c.capabilities,
        driver=None,
    )
    runnable = [
        w
        for w in with_code
        if w.cuda and compat.driver_runs(driver_version, w.cuda, c.capabilities, c.tables)
    ]
    if not with_code or runnable:
        return
    floors = [compat.driver_floor(w.cuda or "", c.capabilities, c.tables) or "" for w in with_code]
    yield c.finding(
        "cuda.driver-too-old",
        ERROR,
        f"Driver {driver_version} runs none of the torch wheels that have code for "
        f"{_cards(c.gpus)}; the least that any of them needs is {min(floors, key=parts)}.",
        [*evidence, "build/torch.toml", "build/cuda.toml"],
        advice(c).text,
        advice(c).commands,
    )


def _cards(gpus: list[Gpu]) -> str:
    """`NVIDIA GeForce RTX 5090 (compute capability 12.0)`, each kind once."""
    kinds = dict.fromkeys(f"{g.name} (compute capability {g.compute_capability})" for g in gpus)
    return joined(list(kinds)) or "this GPU"


def memory_held(c: Context) -> Iterator[Finding]:
    """GPUs whose memory others hold: often what a dead run left behind."""
    for gpu in c.gpus:
        if gpu.memory_total is None or gpu.memory_free is None or not gpu.memory_total:
            continue
        held = gpu.memory_total - gpu.memory_free
        if held < gpu.memory_total * MEMORY_HELD:
            continue
        holders = [
            f"PID {p.pid}" + (f" ({p.name}, {memory(p.memory)})" if p.memory else "")
            for p in gpu.processes
        ]
        yield c.finding(
            "cuda.oom",
            WARNING,
            f"{memory(held)} of {memory(gpu.memory_total)} on GPU {gpu.index} ({gpu.name}) are taken"
            + (f" by {joined(holders[:3])}." if holders else " by processes not shown here."),
            [f"GPU {gpu.index}: {gpu.memory_free} MiB free of {gpu.memory_total}"],
            "End those processes if they are leftovers, or use another GPU.",
            ["nvidia-smi"],
        )


def toolkit_knows_gpu(c: Context) -> Iterator[Finding]:
    """An nvcc that is older than the card."""
    nvidia = c.facts.nvidia
    if nvidia is None or nvidia.nvcc is None:
        return
    chosen = next((t for t in nvidia.toolkits if t.nvcc == nvidia.nvcc), None)
    if chosen is None or not chosen.archs:
        return
    for cc in c.capabilities:
        newest = max(chosen.archs, key=parts)
        if cc in chosen.archs or not older(newest, cc):
            continue
        row = c.tables.arch(cc)
        wanted = f"CUDA {row['min_cuda']} or newer" if row else "a newer CUDA"
        yield c.finding(
            "cuda.toolkit-too-old-for-arch",
            WARNING,
            f"nvcc of CUDA {chosen.version} at {chosen.path} compiles up to {newest} and does not "
            f"know {cc} of this GPU; building for it needs {wanted}.",
            [f"{nvidia.nvcc} --list-gpu-arch: {', '.join(chosen.archs)}"],
            f"Install {wanted} and point CUDA_HOME to it. Wheels need no toolkit.",
            c.system_install("cuda-toolkit", cuda=str(row["min_cuda"])) if row else [],
        )


def toolkit_matches_torch(c: Context) -> Iterator[Finding]:
    """Extensions compiled with another CUDA major than torch's are refused."""
    nvidia, torch = c.facts.nvidia, c.torch
    if nvidia is None or torch is None or not torch.cuda or not nvidia.nvcc_version:
        return
    if parts(nvidia.nvcc_version)[:1] == parts(torch.cuda)[:1]:
        return
    yield c.finding(
        "cuda.toolkit-mismatch",
        WARNING,
        f"nvcc is of CUDA {nvidia.nvcc_version} and torch {torch.version} of CUDA {torch.cuda}: "
        "torch refuses to compile CUDA extensions with another major version. Training needs no nvcc.",
        [f"{nvidia.nvcc}: {nvidia.nvcc_version}", f"{torch.path}/version.py: cuda {torch.cuda}"],
        f"For extensions, point CUDA_HOME to a toolkit of CUDA {torch.cuda}.",
    )


def host_compiler(c: Context) -> Iterator[Finding]:
    """A gcc that is newer than what this nvcc accepts."""
    nvidia, host = c.facts.nvidia, c.facts.host
    if nvidia is None or host is None or not nvidia.nvcc_version:
        return
    row = c.tables.toolkit(nvidia.nvcc_version)
    gcc = host.tools.get("gcc")
    highest = str(row["gcc_max"]) if row and row.get("gcc_max") else None
    if gcc is None or gcc.version is None or highest is None:
        return
    if parts(gcc.version)[0] <= int(highest):
        return
    yield c.finding(
        "cuda.host-compiler-unsupported",
        WARNING,
        f"gcc {gcc.version} is newer than gcc {highest}, the newest that nvcc of CUDA "
        f"{nvidia.nvcc_version} accepts (unsupported GNU version). Wheels need no compiler.",
        [f"{gcc.path}: {gcc.version}", f"{nvidia.nvcc}: {nvidia.nvcc_version}", "build/cuda.toml"],
        f"For builds, install gcc {highest} and set CC, CXX and CUDAHOSTCXX to it.",
    )


RULES = (
    driver,
    driver_age,
    memory_held,
    toolkit_knows_gpu,
    toolkit_matches_torch,
    host_compiler,
)

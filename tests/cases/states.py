"""Cards in trouble, what stands behind a working nvidia-smi, and cards that the driver does not list."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from machines import CARDS, Machine

from cases.describe import MIG_LIST, MIG_ON, NVSWITCH, Case, case, container, pc, wsl

H100 = CARDS["H100"]
RESET = "[GPU requires reset]"
NEEDS_RESET = H100.but(compute_mode=RESET, mig__mode__current=RESET, gpu_recovery_action=RESET)
LOST = "Unable to determine the device handle for GPU 0000:{}:00.0: {}"
NVML_UNKNOWN = "Failed to initialize NVML: Unknown Error"
BLOCKED = (
    "Failed to initialize NVML: GPU access blocked by the operating system\n"
    "Failed to properly shut down NVML: GPU access blocked by the operating system"
)
SLURM = {"SLURM_JOB_ID": "4711", "SLURM_JOB_GPUS": "0,1"}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
SEVEN_OF_EIGHT: dict[str, Any] = {"smi": {"unlisted": ("H100",)}}
REGISTERED = CARDS["H200"].but(fabric__state="Completed", fabric__status="Success")
NOT_REGISTERED = CARDS["H200"].but(
    fabric__state="Completed", fabric__status="Insufficient Resources"
)


def lxc(machine: Machine) -> Machine:
    """The same machine from an LXC container, where podman's mark lies too."""
    marks = {"/proc/1/environ": "container=lxc\0TERM=linux\0", "/run/.containerenv": ""}
    return replace(machine, files={**machine.files, **marks})


def wsl_says(text: str) -> Machine:
    """WSL whose nvidia-smi prints this in place of an answer."""
    return replace(
        wsl(torch=None), programs={"/usr/lib/wsl/lib/nvidia-smi": f"echo '{text}'; exit 17"}
    )


def compat(version: str, card: str = "A100", driver: str = "535.183.01", torch: str = "cu130",
           folder: str = "compat", **more: Any) -> Machine:  # fmt: skip
    """A container whose LD_LIBRARY_PATH has another libcuda first."""
    place = f"/usr/local/cuda-13.0/{folder}"
    return container(pc(
        *card.split(" + "), driver=driver, torch=torch,
        files={f"{place}/libcuda.so.{version}": "\x7fELF"},
        links={f"{place}/libcuda.so.1": f"libcuda.so.{version}"},
        env={"LD_LIBRARY_PATH": place}, **more,
    ))  # fmt: skip


BEHIND_NVIDIA_SMI: dict[str, Case] = {
    # --- libcuda ------------------------------------------------------------------------------
    "docker, capabilities utility": case(
        container(pc("RTX 4090", smi={"library": ""}, env={"NVIDIA_DRIVER_CAPABILITIES": "utility"})),
        "cuda.driver-missing", says=("NVIDIA_DRIVER_CAPABILITIES=compute,utility", "nvidia-smi works"),
        never=("Install an NVIDIA driver", "modprobe"),
    ),
    "pod, capabilities utility": case(
        pc("H100", smi={"library": ""}, env=POD | {"NVIDIA_DRIVER_CAPABILITIES": "utility"}),
        "cuda.driver-missing", says=("pod's specification",),
    ),
    "LXC with nodes and without libraries": case(
        lxc(pc("RTX 4090", smi={"library": ""}, without=("/usr/bin/nvidia-smi",))),
        "cuda.driver-missing", says=(r"nvidia\.driver\.capabilities", "device nodes"),
        never=("Install an NVIDIA driver",),
    ),
    "container on a cluster, libcuda off the path": case(
        container(pc("A100", smi={"library": ""}, files={"/usr/local/nvidia/lib64/libcuda.so.1": "x"})),
        "cuda.driver-missing", says=("/usr/local/nvidia/lib64", "export LD_LIBRARY_PATH="),
    ),
    "host with nvidia-smi and without the compute libraries": case(
        pc("RTX 4090", smi={"library": ""}), "cuda.driver-missing", says=("libcuda1",),
    ),
    "Docker in WSL, no libcuda": case(
        container(wsl(library="", torch="cu128", env={"NVIDIA_DRIVER_CAPABILITIES": "utility"})),
        "cuda.driver-missing", says=("NVIDIA_DRIVER_CAPABILITIES",), never=(r"ld\.wsl\.conf",),
    ),
    "a stub of libcuda first": case(
        pc("RTX 4090", files={"/opt/cuda/lib64/stubs/libcuda.so.1": "x"},
           env={"LD_LIBRARY_PATH": "/opt/cuda/lib64/stubs"}),
        "cuda.init-failed", says=("stub",),
    ),
    # --- a libcuda of another driver: 803, 804, forward compatibility ----------------------------
    "cuda-compat on an A100": case(compat("580.95.05")),
    "cuda-compat on an H100, conda's folder": case(
        compat("590.44.01", "H100", torch="cu132", folder="cuda-compat")
    ),
    "cuda-compat on a T4 and a V100": case(compat("580.95.05", "T4 + V100", torch="cu126")),
    "cuda-compat on a GeForce": case(
        compat("580.95.05", "RTX 4090", torch="cu128"), "cuda.driver-library-mismatch",
        says=("804", "compat"), never=("restart the machine",),
    ),
    "cuda-compat on a GeForce beside an A100": case(
        compat("580.95.05", "A100 + RTX 4090", torch="cu128"), "cuda.driver-library-mismatch", says=("804",),
    ),
    "cuda-compat on a workstation card": case(
        compat("580.95.05", "RTX A6000", torch="cu128"), warnings="cuda.driver-library-mismatch",
        says=("may refuse",),
    ),
    "cuda-compat older than the module": case(
        compat("550.54.15", driver="580.95.05"), "cuda.driver-library-mismatch", says=("803", "550.54.15"),
    ),
    "cuda-compat of the module's own version": case(compat("580.95.05", driver="580.95.05")),
    "cuda-compat without nvidia-smi": case(compat("580.95.05", without=("/usr/bin/nvidia-smi",))),
    "an image with a libcuda of its own": case(
        compat("535.54.03", driver="595.45.04", folder="lib64"), "cuda.driver-library-mismatch", says=("803",),
    ),
    # --- nvidia-uvm ---------------------------------------------------------------------------
    "LXC without nvidia-uvm": case(
        lxc(pc("RTX 4090", without=("/dev/nvidia-uvm",))), "cuda.init-failed",
        says=("nvidia-uvm", r"lxc\.cgroup2"),
    ),
    "docker with single devices, no nvidia-uvm": case(
        container(pc("2 * RTX 4090", without=("/dev/nvidia-uvm",), files={"/usr/bin/nvidia-modprobe": "x"})),
        "cuda.init-failed", says=("--device /dev/nvidia-uvm",),
    ),
    "pod on a node without nvidia-uvm": case(
        pc("A100", env=POD, without=("/dev/nvidia-uvm",)), "cuda.init-failed", says=("on the node",),
    ),
    "host without nvidia-uvm and nvidia-modprobe": case(
        pc("RTX 4090", without=("/dev/nvidia-uvm",)), warnings="cuda.init-failed",
        says=("modprobe nvidia-uvm",),
    ),
    "host whose nvidia-modprobe makes nvidia-uvm": case(
        pc("RTX 4090", without=("/dev/nvidia-uvm",), files={"/usr/bin/nvidia-modprobe": "x"}),
    ),
    # --- a driver that gives this process no answer ---------------------------------------------
    "docker that lost its devices": case(
        container(pc("2 * L4", smi={"says": NVML_UNKNOWN})), "cuda.init-failed",
        says=("cgroupfs", "container anew"), never=("dmesg",),
    ),
    "pod that lost its devices": case(
        pc("A100", env=POD, smi={"says": NVML_UNKNOWN}), "cuda.init-failed", says=("Delete the pod",),
    ),
    "LXC with the numbers of yesterday": case(
        lxc(pc("RTX 4090", smi={"says": NVML_UNKNOWN})), "cuda.init-failed", says=("/proc/devices",),
    ),
    "docker whose cgroup names no GPU": case(
        container(pc("A100", smi={"says": BLOCKED})), "cuda.init-failed", says=("cgroup",), never=("dmesg",),
    ),
    "host where NVML knows no reason": case(
        pc("A100", smi={"says": NVML_UNKNOWN}), "cuda.init-failed", says=("dmesg",),
    ),
    "WSL that Windows blocks": case(
        wsl_says("Failed to initialize NVML: GPU access blocked by the operating system"),
        "host.wsl torch.missing", says=("wsl --update", "TCC"), never=("dmesg", "whl/cpu"),
    ),
    "WSL whose Windows lists no card": case(
        wsl_says("No devices were found"), "host.wsl torch.missing", says=("Windows",), never=("whl/cpu",),
    ),
    "Slurm job without a GPU": case(
        pc("4 * A100", smi={"says": "No devices were found"}, env={"SLURM_JOB_ID": "4711"}),
        "cuda.no-devices-visible", says=(r"--gpus=1", "Slurm"), never=("dmesg",),
    ),
    "container with nodes whose driver lists none": case(
        lxc(pc("RTX 4090", smi={"says": "No devices were found"})), "cuda.no-devices-visible",
        says=("on the host",), never=("dmesg",),
    ),
    "no devices, with status 0": case(
        pc("RTX 4090", programs={"nvidia-smi": "echo 'No devices were found'"}), "cuda.no-devices-visible",
    ),
    "no devices, with status 6": case(
        pc("RTX 4090", programs={"nvidia-smi": "echo 'No devices were found'; exit 6"}),
        "cuda.no-devices-visible",
    ),
}  # fmt: skip

STATES: dict[str, Case] = {
    # --- faults -------------------------------------------------------------------------------
    "the only card requires a reset": case(
        pc(NEEDS_RESET), "cuda.hardware-fault", says=("requires reset", "--gpu-reset for that"),
        never=(r"sudo nvidia-smi --gpu-reset",),
    ),
    "two of eight require a reset": case(
        pc("6 * H100", NEEDS_RESET, NEEDS_RESET), "cuda.hardware-fault", says=("GPU 6", "GPU 7", "Until then"),
    ),
    "reset required, in a container": case(
        container(pc(NEEDS_RESET)), "cuda.hardware-fault", says=("on the host",), never=("dmesg",),
    ),
    "one of eight is lost": case(
        pc("7 * H100", smi={"unlisted": ("H100",), "warns": LOST.format("49", "GPU is lost.  Reboot the system")}),
        "cuda.hardware-fault", says=("GPU 7", "lost"),
    ),
    "one of two fell off the bus, unknown error": case(
        pc("RTX 4090", smi={"unlisted": ("RTX 4090",), "warns": LOST.format("19", "Unknown Error")}),
        "cuda.hardware-fault", says=("0000:19:00.0",),
    ),
    "a card that does not tell its name": case(
        pc(H100.but(name="[Unknown Error]"), "H100"), "cuda.hardware-fault", says=("GPU 0",),
    ),
    "a card that does not tell its memory": case(
        pc(H100.but(memory__total="[Unknown Error]", memory__free="[Unknown Error]")),
        "cuda.hardware-fault", says=("memory.total",),
    ),
    "a power sensor that fails is no fault": case(
        pc(H100.but(compute_mode="[Unknown Error]", ecc__mode__current="[Unknown Error]")),
    ),
    "rows to remap at the next reset": case(
        pc(H100.but(remapped_rows__pending="Yes")), "cuda.hardware-fault", says=("next reset",),
    ),
    "recovery by a restart of the node": case(
        pc(H100.but(gpu_recovery_action="Node Reboot")), "cuda.hardware-fault", says=("Restart the machine",),
    ),
    "recovery by draining peers": case(
        pc("H100", H100.but(gpu_recovery_action="Drain P2P")), "cuda.hardware-fault", says=("copy between",),
    ),
    # --- compute mode -------------------------------------------------------------------------
    "the only card is prohibited": case(
        pc(H100.but(compute_mode="Prohibited")), "cuda.no-devices-visible",
        says=("compute mode Prohibited", "-c DEFAULT"),
    ),
    "one of two is prohibited": case(
        pc("H100", H100.but(compute_mode="Prohibited")), "cuda.no-devices-visible", says=("GPU 1", "Until then"),
    ),
    "prohibited, in a container": case(
        container(pc(H100.but(compute_mode="Prohibited"))), "cuda.no-devices-visible", says=("on the host",),
        never=("sudo nvidia-smi",),
    ),
    "exclusive, and held": case(
        pc(H100.but(compute_mode="Exclusive_Process"), smi={"apps": "0, 4711, python, 900"}),
        "cuda.no-devices-visible", says=("PID 4711", "Exclusive_Process"),
    ),
    "exclusive, and free": case(pc(H100.but(compute_mode="Exclusive_Process"))),
    "exclusive, and shared by MPS": case(
        pc(H100.but(compute_mode="Exclusive_Process"),
           smi={"apps": "0, 4711, nvidia-cuda-mps-server, 900"}),
    ),
    # --- MIG ----------------------------------------------------------------------------------
    "MIG on, no instance: nothing destructive as a command": case(
        pc(MIG_ON), "cuda.no-devices-visible", says=("-lgip",), never=("-mig 0",),
    ),
    "MIG on, docker was given none": case(
        container(pc(MIG_ON)), "cuda.no-devices-visible", says=("container", "device=0:0"), never=("-mig",),
    ),
    "MIG on, LXC was given none": case(
        lxc(pc(MIG_ON, driver="580.95.05")), "cuda.no-devices-visible", says=("gputype=mig",),
    ),
    "MIG on, pod was given none": case(
        pc(H100.but(mig__mode__current="Enabled"), env=POD), "cuda.no-devices-visible", says=("nvidia.com/mig",),
    ),
    "MIG without instances on one of two": case(
        pc("A100", MIG_ON), warnings="cuda.no-devices-visible", says=("GPU 1",),
    ),
    "MIG instance of a B200": case(
        pc(CARDS["B200"].but(mig__mode__current="Enabled"),
           smi={"listing": MIG_LIST.replace("3g.40gb", "1g.23gb").replace("A100-SXM4-80GB", "B200")}),
    ),
    # --- fabric -------------------------------------------------------------------------------
    "fabric completed, and not for one card": case(
        pc(*[REGISTERED] * 3, NOT_REGISTERED, files=NVSWITCH), "cuda.init-failed",
        says=("Insufficient Resources", "GPU 3"),
    ),
    "fabric done on the host, asked in LXC": case(
        lxc(pc(*[REGISTERED] * 2, files=NVSWITCH, programs={"systemctl": "echo inactive; exit 3"})),
    ),
    "fabric unknown in LXC": case(
        lxc(pc("2 * A100", files=NVSWITCH, programs={"systemctl": "echo inactive; exit 3"})),
    ),
    # --- on the bus and not listed --------------------------------------------------------------
    "seven of eight": case(
        pc("7 * H100", **SEVEN_OF_EIGHT), warnings="cuda.no-devices-visible",
        says=("0000:49:00.0", "of 8 cards it runs 7"),
    ),
    "one of two": case(
        pc("RTX 4090", smi={"unlisted": ("RTX 4090",)}), warnings="cuda.no-devices-visible",
        says=("0000:19:00.0",),
    ),
    "seven of eight, in a job of Slurm": case(pc("7 * H100", env=SLURM, **SEVEN_OF_EIGHT)),
    "seven of eight, in a container": case(container(pc("7 * H100", **SEVEN_OF_EIGHT))),
    "seven of eight, in a pod": case(pc("7 * H100", env=POD, **SEVEN_OF_EIGHT)),
    "seven of eight, chosen by NVIDIA_VISIBLE_DEVICES": case(
        pc("7 * H100", env={"NVIDIA_VISIBLE_DEVICES": "0,1,2,3,4,5,6"}, **SEVEN_OF_EIGHT)
    ),
    "seven of eight, chosen by CUDA_VISIBLE_DEVICES": case(
        pc("7 * H100", env={"CUDA_VISIBLE_DEVICES": "0,1"}, **SEVEN_OF_EIGHT)
    ),
    "a second card lent to a virtual machine": case(
        pc("RTX 4090", smi={"unlisted": ("RTX 4090",)}, files={"/sys/bus/pci/drivers/vfio-pci/bind": ""},
           links={"/sys/bus/pci/devices/0000:19:00.0/driver": "../../drivers/vfio-pci"}),
    ),
    "an old display card that the driver has left": case(
        pc("RTX 4090", smi={"unlisted": ("GTX TITAN",)}), infos="cuda.no-devices-visible",
    ),
    "virtual functions are no cards": case(
        pc("A100", smi={"unlisted": ("A100",)},
           files={"/sys/bus/pci/devices/0000:19:00.0/physfn/vendor": "0x10de\n"}),
    ),
}  # fmt: skip

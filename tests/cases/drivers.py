"""Driver branches and kernel modules against cards, Jetsons, Secure Boot, and other makers' accelerators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from machines import Gpu, Machine, Torch, elf, even

from cases.describe import NO_DRIVER_SAYS, Case, case, container, pc

KERNEL = "6.14.0-33-generic"
DKMS = f"/lib/modules/{KERNEL}/updates/dkms/nvidia.ko.zst"
EFI = "/sys/firmware/efi/efivars"
SECURE_BOOT = {f"{EFI}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": b"\6\0\0\0\1"}
NOT_SECURE = {f"{EFI}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": b"\6\0\0\0\0"}
MOK_LIST = f"{EFI}/MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23"
KEY = {"/var/lib/shim-signed/mok/MOK.der": b"0\x82\3\x1fthe key of this machine"}
BUILT_FOR_ANOTHER = {f"/lib/modules/{KERNEL}/modules.dep": "",
                     "/lib/modules/6.14.0-29-generic/updates/dkms/nvidia.ko.zst": ""}  # fmt: skip
FAILED_BUILD = {
    f"/lib/modules/{KERNEL}/modules.dep": "",
    "/var/lib/dkms/nvidia/535.183.01/build/make.log":
        f"DKMS make.log for nvidia-535.183.01 for kernel {KERNEL} (x86_64)\nmake[1]: Entering directory\n"
        "/var/lib/dkms/nvidia/535.183.01/build/nvidia/nv.c:40: error: implicit declaration of function 'vm_flags'\n",
}  # fmt: skip
RTX_5070 = Gpu("NVIDIA GeForce RTX 5070", "12.0", 12227, "2f04")
GTX_1050 = Gpu("NVIDIA GeForce GTX 1050", "6.1", 4096, "1c8d")
GT_540M = Gpu("GeForce GT 540M", "2.1", 1024, "0df4")


def unloaded(*cards: Any, files: dict[str, Any] | None = None, **more: Any) -> Machine:
    """Libraries of a driver, and no module loaded."""
    return pc(*cards, torch=None, smi={"says": NO_DRIVER_SAYS}, files=files or {},
              without=("/sys/module/nvidia", "/proc/driver"), **more)  # fmt: skip


def on_bus(
    vendor: str, device: str, kind: str = "0x030000", address: str = "0000:0a:00.0"
) -> dict[str, str]:
    """A device of the bus beside those that a machine is made with."""
    folder = f"/sys/bus/pci/devices/{address}"
    return {
        f"{folder}/vendor": f"0x{vendor}\n",
        f"{folder}/device": f"0x{device}\n",
        f"{folder}/class": f"{kind}\n",
    }


def closed(machine: Machine) -> Machine:
    """The same driver with its proprietary module."""
    driver = machine.nvidia.driver if machine.nvidia else ""
    text = (
        f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Wed Sep 10 17:39:07 UTC 2025\n"
    )
    return replace(machine, files={**machine.files, "/proc/driver/nvidia/version": text})


def jetson(model: str, chip: str, l4t: str, smi: dict[str, Any] | None = None, gpu: Gpu | None = None,
           driver: str | None = None, nodes: bool = True, **more: Any) -> Machine:  # fmt: skip
    """A Jetson; without a GPU for nvidia-smi it has no nvidia-smi and no display module."""
    major, _, revision = l4t.partition(".")
    files = {
        "/etc/nv_tegra_release": f"# R{major} (release), REVISION: {revision}, GCID: 38968081, BOARD: generic, "
        "EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n",
        "/proc/device-tree/model": f"{model}\0",
        "/proc/device-tree/compatible": f"nvidia,p3737-0000+p3701-0005\0nvidia,{chip}\0",
        "/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1": elf("libcuda.so.1", arch="aarch64"),
    } | more.pop("files", {})
    if nodes:
        files |= {
            "/dev/nvhost-gpu": "",
            "/dev/nvhost-ctrl-gpu": "",
            "/dev/nvgpu/igpu0/ctrl": "",
            "/dev/nvmap": "",
        }
    nvidia = pc(gpu, driver=driver, smi=smi).nvidia if gpu else None
    without = ("/sys/bus",) if gpu else ()
    links = {} if gpu else {"/usr/lib/aarch64-linux-gnu/libcuda.so.1": "nvidia/libcuda.so.1.1"}
    return Machine(arch="aarch64", kernel="5.15.148-tegra", python=more.pop("python", "3.10.12"), nvidia=nvidia,
                   files=files, without=without, links=links, **more)  # fmt: skip


ORIN = Gpu("Orin (nvgpu)", "8.7", None, "0000")
ORIN_BOARD = ("NVIDIA Jetson AGX Orin Developer Kit", "tegra234")
JETSON_TORCH = Torch(
    version="2.8.0", cuda="12.6", sass=even("8.7"), triton="3.4.0", platform="linux"
)

EIGHT_GAUDIS: dict[str, str] = {}
for number in range(8):
    EIGHT_GAUDIS |= on_bus("1da3", "1060", "0x120000", f"0000:{number}a:00.0")

DRIVERS: dict[str, Case] = {
    # --- Jetsons ---------------------------------------------------------------------------------
    "Orin, JetPack 6, the wheel of its own index": case(
        jetson(*ORIN_BOARD, "36.4.3", gpu=ORIN, driver="540.4.0", torch=JETSON_TORCH),
    ),
    "Orin, JetPack 7.2, nothing installed": case(
        jetson("NVIDIA Jetson Orin Nano", "tegra234", "39.2.0", gpu=ORIN, driver="595.78", torch=None),
        "torch.missing", says=("cu132",), never=("jetson-ai-lab",),
    ),
    "Orin, JetPack 6, a wheel for servers of CUDA 13": case(
        jetson(*ORIN_BOARD, "36.4.3", gpu=ORIN, driver="540.4.0", torch="cu130 arm"),
        "cuda.driver-too-old torch.arch-missing", says=("jp6/cu126",), never=("Update the driver",),
    ),
    "Xavier, JetPack 5, nothing installed": case(
        jetson("NVIDIA Jetson Xavier NX Developer Kit", "tegra194", "35.4.1", torch=None),
        "torch.missing", says=("JetPack 5", "11.4"), never=("pip install torch", "mismatch"),
    ),
    "Jetson Nano, JetPack 4, CPU wheel": case(
        jetson("NVIDIA Jetson Nano Developer Kit", "tegra210", "32.7.1", torch="cpu"),
        "torch.cpu-only-build", says=("Jetson Nano", "JetPack 4"), never=("whl/cpu",),
    ),
    "Jetson's container without its runtime": case(
        container(Machine(arch="aarch64", kernel="5.15.148-tegra", python="3.10.12")),
        "cuda.no-devices-visible torch.missing", says=("--runtime nvidia",),
    ),
    "Jetson with an own kernel, no driver of its GPU": case(
        jetson(*ORIN_BOARD, "36.4.3", torch=None, nodes=False), "cuda.driver-missing torch.missing", says=("nvgpu",),
    ),
    # --- a driver that does not serve the card --------------------------------------------------
    "GTX 1050, branch 595 installed": case(
        unloaded(GTX_1050, driver="595.71.05"), "cuda.driver-missing torch.missing",
        says=("580 was the last for Pascal", "nvidia-driver-580"), never=("modprobe", "dkms", "mokutil", "-open"),
    ),
    "V100, branch 590, nothing listed": case(
        pc("V100", driver="590.44.01", torch=None, distro="rocky",
           smi={"says": "No devices found"}), "cuda.no-devices-visible torch.missing",
        says=("580 was the last for Volta", "nvidia-driver:580-dkms"), never=("nvidia-open",),
    ),
    "Tesla P4, open module, nvidia-smi reaches no driver": case(
        pc(Gpu("Tesla P4", "6.1", 7680, "1bb3"), torch=None, smi={"says": NO_DRIVER_SAYS}),
        "cuda.no-devices-visible torch.missing", says=("open kernel module runs nothing before Turing", "proprietary"),
    ),
    "RTX 5090, proprietary module": case(
        closed(pc("RTX 5090", torch=None, distro="debian13", smi={"says": "No devices were found"})),
        "cuda.no-devices-visible torch.missing", says=("proprietary kernel module does not run", "nvidia-open"),
    ),
    "RTX 4090 and a GTX 1080, open module": case(
        pc("RTX 4090", files=on_bus("10de", "1b80")), warnings="cuda.no-devices-visible",
        says=("0a:00.0", "GP104", "open kernel module", r"(?m)nvidia-driver-580$"),
    ),
    "RTX 5090 and a GTX 1080, open module": case(
        pc("RTX 5090", files=on_bus("10de", "1b80")), warnings="cuda.no-devices-visible",
        says=("Nothing serves it beside the others", "Blackwell", "Pascal"), never=("apt-get install",),
    ),
    "RTX 4090 beside a display card of 2014": case(pc("RTX 4090", files=on_bus("10de", "1287"))),
    # --- no driver yet ---------------------------------------------------------------------------
    "RTX 5090 and a GTX 1080, no driver": case(
        pc("RTX 5090", "GTX 1080", driver=None, torch=None), "cuda.driver-missing torch.missing",
        says=("No one driver serves all", "leaves 6.1 unused", "nvidia-driver-580-open"),
    ),
    "RTX 4090 and a GTX 1080, no driver": case(
        pc("RTX 4090", "GTX 1080", driver=None, torch=None), "cuda.driver-missing torch.missing",
        says=("branch 580", "proprietary", r"(?m)nvidia-driver-580$"), never=("-open",),
    ),
    "Fermi, no driver": case(
        pc(GT_540M, driver=None, torch=None), "cuda.driver-missing torch.missing",
        says=("390", "trains on its CPU", "--route cpu-wheel"), never=("580",),
    ),
    "driver of a container is the host's": case(
        container(pc("RTX 4090", driver=None, torch=None)), "cuda.driver-missing torch.missing",
        says=("on the host",), never=("apt-get install",),
    ),
    # --- installed and not loaded: the reason decides --------------------------------------------
    "Secure Boot, key of the module not enrolled": case(
        unloaded(RTX_5070, files={DKMS: "", **SECURE_BOOT, **KEY, MOK_LIST: b"Canonical's certificate"}),
        "cuda.driver-missing torch.missing", never=("modprobe", "dkms autoinstall"),
        says=("Secure Boot is on", "mokutil --import /var/lib/shim-signed/mok/MOK.der"),
    ),
    "Secure Boot, key enrolled": case(
        unloaded(RTX_5070, files={DKMS: "", **SECURE_BOOT, **KEY, MOK_LIST: b"a" + next(iter(KEY.values())) + b"z"}),
        "cuda.driver-missing torch.missing", says=("is enrolled", "dkms autoinstall --force"),
        never=("mokutil --import",),
    ),
    "Secure Boot, module not built for this kernel": case(
        unloaded(RTX_5070, files={**SECURE_BOOT, **BUILT_FOR_ANOTHER}), "cuda.driver-missing torch.missing",
        says=("none was built for the running kernel", "6.14.0-29", r"linux-headers-\$\(uname -r\)"),
        never=("mokutil",),
    ),
    "Secure Boot off, module there": case(
        unloaded(RTX_5070, files={DKMS: "", **NOT_SECURE}), "cuda.driver-missing torch.missing",
        says=("modprobe nvidia",), never=("mokutil", "Secure Boot"),
    ),
    "DKMS failed": case(
        unloaded("RTX 4090", driver="535.183.01", files=FAILED_BUILD), "cuda.driver-missing torch.missing",
        says=("DKMS could not build 535.183.01", "implicit declaration"), never=("mokutil",),
    ),
    "module forbidden by prime-select": case(
        unloaded("RTX 3060 Laptop", files={DKMS: "", "/etc/modprobe.d/blacklist-nvidia.conf": "blacklist nvidia\n"}),
        "cuda.driver-missing torch.missing", says=("blacklist-nvidia.conf", "prime-select"),
        never=("mokutil", "modprobe nvidia"),
    ),
    # --- other makers ----------------------------------------------------------------------------
    "AMD card with a ROCm wheel": case(
        Machine(torch="rocm", files=on_bus("1002", "744c")), warnings="host.accelerator-unsupported",
        says=("AMD Radeon RX 7900", "ROCm", "2.9.1.rocm6.4"),
    ),
    "graphics of a Ryzen AI Max with a ROCm wheel": case(
        Machine(torch="rocm", files=on_bus("1002", "1586")), warnings="host.accelerator-unsupported",
        says=("Strix Halo", "ROCm"),
    ),
    "Intel Arc with an XPU wheel": case(
        Machine(torch=Torch(version="2.9.1+xpu", triton=None), files=on_bus("8086", "e20b")),
        warnings="host.accelerator-unsupported", says=("Intel Arc B", "XPU"),
    ),
    "eight Gaudi 3, nothing installed": case(
        Machine(torch=None, files=EIGHT_GAUDIS),
        "torch.missing", "host.accelerator-unsupported", says=("8 × Habana .Intel Gaudi. Gaudi 3",),
    ),
    "an accelerator that nobody knows": case(
        Machine(torch="cpu", files=on_bus("1fff", "0001", "0x120000")), warnings="host.accelerator-unsupported",
        says=("vendor 0x1fff",),
    ),
    "laptop with Intel graphics": case(
        Machine(torch="cpu", files=on_bus("8086", "a7a0", address="0000:00:02.0")),
        infos="host.accelerator-unsupported",
    ),
    "AMD processor with graphics beside an RTX 4090": case(pc("RTX 4090", files=on_bus("1002", "164e"))),
    "server with the graphics of its BMC": case(Machine(torch="cpu", files=on_bus("1a03", "2000"))),
}  # fmt: skip

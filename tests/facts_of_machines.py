"""Machines as facts, for what is decided by facts alone: no tree is written and no program started."""

from __future__ import annotations

from dataclasses import replace

from doctor.facts import (
    ArchCode,
    Facts,
    Gpu,
    Host,
    Nvidia,
    PciDevice,
    Python,
    Tool,
    Torch,
    TorchBuild,
)

HOST = Host(
    os="Linux",
    kernel="6.14.0-33-generic",
    arch="x86_64",
    distro_id="ubuntu",
    distro_like=("debian",),
    distro_version="24.04",
    cores=8,
    memory_total=64 << 10,
    memory_available=48 << 10,
    libc="glibc",
    libc_version="2.39",
    usr_include=True,
    tools={name: Tool(path=f"/usr/bin/{name}", version="13.3.0") for name in ("gcc", "g++", "ld")},
)
PYTHON = Python(
    executable="/opt/venv/bin/python",
    version="3.12.3",
    bits=64,
    prefix="/opt/venv",
    prefix_free=200 << 10,
    venv=True,
    headers="/usr/include/python3.12",
    venv_module=True,
    pip_version="24.0",
)


def torch_build(version: str, cuda: str | None, archs: str = "", **more: object) -> TorchBuild:
    """A torch that is whole, with code for some architectures."""
    codes = tuple(archs.split())
    return TorchBuild(
        path="/opt/venv/lib/python3.12/site-packages/torch",
        version=version,
        flavour="cuda" if cuda else "cpu",
        cuda=cuda,
        built=True,
        python_tags=("cp312",),
        archs=tuple(ArchCode(arch=arch, sass=40) for arch in codes),
        archs_covered=codes,
        distributed=True,
        libuv=True,
        nccl=bool(cuda),
        gloo=True,
        **more,  # type: ignore[arg-type]
    )


CPU_TORCH = torch_build("2.9.1+cpu", None)
CUDA_TORCH = torch_build("2.9.1+cu128", "12.8", "7.0 7.5 8.0 8.6 9.0 10.0 12.0")


def with_card(
    cc: str, driver: str | None, torch: TorchBuild | None = None, name: str = "NVIDIA Test"
) -> Facts:
    """A machine with one card; with no driver it is only on the bus."""
    gpu = Gpu(
        index=0, name=name, compute_capability=cc, memory_total=24000, memory_free=23900,
        bus_id="0000:01:00.0",
    )  # fmt: skip
    device = PciDevice(
        address="0000:01:00.0",
        vendor_id="0x10de",
        device_id="0x2684",
        compute_capability=cc,
        driver="nvidia" if driver else None,
    )
    nvidia = Nvidia(pci_devices=(device,))
    if driver:
        nvidia = replace(
            nvidia,
            device_nodes=("/dev/nvidia0",),
            kernel_driver=driver,
            kernel_open=float(cc) >= 7.5,
            driver_version=driver,
            driver_library="/usr/lib/x86_64-linux-gnu/libcuda.so.1",
            source="nvidia-smi",
            gpus=(gpu,),
            visible=(0,),
        )
    return Facts(host=HOST, python=PYTHON, nvidia=nvidia, torch=Torch(installed=torch))


PC = with_card("8.6", "580.95.05")

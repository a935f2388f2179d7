"""A row of the table, and the kinds of machines that rows vary."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from machines import CARDS, WHEELS, Ascend, Machine, Torch, TorchNpu, elf, even, fatbin, nvidia


@dataclass(frozen=True, kw_only=True)
class Case:
    """A machine and what is to be said of it: codes, divided by spaces."""

    machine: Machine
    errors: str = ""
    warnings: str = ""
    infos: str = ""
    """Infos that must be among the others."""
    says: tuple[str, ...] = ()
    """Patterns that the findings' causes, remedies and commands must contain somewhere."""
    never: tuple[str, ...] = ()
    """Patterns that they must not."""


def case(machine: Machine, errors: str = "", warnings: str = "", **more: Any) -> Case:
    return Case(machine=machine, errors=errors, warnings=warnings, **more)


def pc(*cards: Any, driver: str | None = "580.95.05", torch: Torch | str | None = "cu128",
       smi: dict[str, Any] | None = None, **more: Any) -> Machine:  # fmt: skip
    """A Linux machine with NVIDIA cards."""
    return Machine(nvidia=nvidia(*cards, driver=driver, **(smi or {})), torch=torch, **more)


def container(machine: Machine) -> Machine:
    """The same machine seen from a container."""
    return replace(machine, files={**machine.files, "/.dockerenv": ""})


def atlas(torch: str = "2.6.0", npu: str | None = "2.6.0", needs: tuple[str, ...] = (),
          python: str = "3.10.12", chips: dict[str, Any] | None = None,
          **more: Any) -> Machine:  # fmt: skip
    """An Ascend server: 910B2, driver 25.2.0 and CANN 8.2.RC1 unless `chips` says otherwise."""
    return Machine(
        kernel="5.10.0-216.0.0.115.oe2203sp4",
        python=python,
        torch=Torch(version=f"{torch}+cpu"),
        torch_npu=TorchNpu(version=npu, needs=needs) if npu else None,
        ascend=Ascend(**(chips or {})),
        **more,
    )


def cann85(**more: Any) -> dict[str, Any]:
    """CANN 8.5.0 with its driver."""
    return {"cann": "8.5.0", "driver": "25.5.0", "inner": "V100R001C23"} | more


def torch(kind: str, **changes: Any) -> Torch:
    """A wheel with something changed."""
    return replace(WHEELS[kind], **changes)


def wsl(library: str | None = None, **more: Any) -> Machine:
    """Windows with an RTX 4050, from inside."""
    card = nvidia("RTX 4050 Laptop", driver="581.29", wsl=True, library=library)
    return Machine(nvidia=card, kernel="6.6.87.2-microsoft-standard-WSL2", **more)


def parquet(body: bytes = b"x" * 64, end: bytes = b"PAR1") -> bytes:
    """A parquet file in outline."""
    return b"PAR1" + body + b"f" * 16 + (16).to_bytes(4, "little") + end


SHARDS = "/home/user/.cache/nanochat/base_data"
BASE = "/home/user/.cache/nanochat"
SITE = "/opt/venv/lib/python3.12/site-packages"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 95000000\n"
NO_DRIVER_SAYS = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that "
    "the latest NVIDIA driver is installed and running."
)
MISMATCH_SAYS = (
    "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.172"
)
LOST_SAYS = (
    "Unable to determine the device handle for GPU0000:11:00.0: GPU is lost.  Reboot the system to "
    "recover this GPU"
)
DCMI = (
    "DrvMngGetConsoleLogLevel failed. (g_conLogLevel=3)\ndcmi module initialize failed. ret is {}"
)
CANN_LIBRARIES = "/usr/local/Ascend/ascend-toolkit/latest/lib64"
DRIVER = "/usr/local/Ascend/driver/lib64"
DRIVER_INFO = "Version=25.2.0\nInnerversion=V100R001C21SPC008B208\npackage_version=25.2.0\n"
PTXAS = "Cuda compilation tools, release {0}, V{0}.88"
OUTSIDER = {"id": "echo 'uid=1001(user) gid=1001(user) groups=1001(user)'"}
NVSWITCH = {
    f"/sys/bus/pci/devices/0000:05:0{i}.0/{name}": f"{value}\n"
    for i in range(4)
    for name, value in (("vendor", "0x10de"), ("device", "0x22a3"), ("class", "0x068000"))
}
NO_TOOLCHAIN = (
    "echo 'error: rustup could not choose a version of rustc to run, because one was not specified "
    "explicitly, and no default is configured.' >&2; exit 1"
)
MIG_LIST = """GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-00000000-1111-2222-3333-444444444444)
  MIG 3g.40gb     Device  0: (UUID: MIG-aaaaaaaa-1111-5222-8333-444444444444)
  MIG 3g.40gb     Device  1: (UUID: MIG-bbbbbbbb-1111-5222-8333-444444444444)"""
OUTSIDE_FABRIC = CARDS["H200"].but(fabric__state="In Progress", fabric__status="N/A")
MIG_ON = CARDS["A100"].but(mig__mode__current="Enabled")
OLD_JITLINK = {
    "env": {"LD_LIBRARY_PATH": "/usr/local/cuda-12.1/lib64"},
    "toolkits": ("12.1",),
    "tools": {"gcc": "12.3.0", "g++": "12.3.0"},
}
SOURCE_TREE = {
    "/home/user/pytorch/torch/__init__.py": "",
    "/home/user/pytorch/torch/version.py": "__version__ = '2.10.0a0'\n",
    "/home/user/pytorch/torch/_utils_internal.py": "",
    "/home/user/pytorch/setup.py": "",
    "/home/user/pytorch/CMakeLists.txt": "",
    "/home/user/pytorch/version.txt": "2.10.0a0\n",
}
HOME_TORCH = "/home/user/pytorch/torch"
BUILT_TREE = SOURCE_TREE | {
    f"{HOME_TORCH}/version.py": "__version__ = '2.10.0a0+gitba93d56'\ncuda = '13.0'\nhip = None\n",
    f"{HOME_TORCH}/_C.cpython-312-x86_64-linux-gnu.so": elf(),
    f"{HOME_TORCH}/lib/libtorch_cpu.so": elf(
        strings=["N4c10d6detail16LibUVStoreDaemonE", "ProcessGroupGloo"]
    ),
    f"{HOME_TORCH}/lib/libtorch_cuda.so": elf(
        strings=["ProcessGroupNCCL"], code=fatbin(even("8.0 8.6 9.0 12.0"))
    ),
}
"""A PyTorch that was built where its source lies."""

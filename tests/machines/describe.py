"""What a machine is made of. What is not said is ordinary and healthy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Gpu:
    """A card as nvidia-smi shows it; `fields` overrides single answers."""

    name: str
    cc: str
    memory: int | None
    pci: str
    fields: Mapping[str, str] = field(default_factory=dict)

    def but(self, **fields: str) -> Gpu:
        """The same card with other answers, dots written as `__`."""
        return replace(self, fields={k.replace("__", "."): v for k, v in fields.items()})


CARDS = {
    "GTX TITAN": Gpu("GeForce GTX TITAN", "3.5", 6083, "1005"),
    "K80": Gpu("Tesla K80", "3.7", 11441, "102d"),
    "GTX 1080": Gpu("NVIDIA GeForce GTX 1080", "6.1", 8192, "1b80"),
    "V100": Gpu("Tesla V100-SXM2-32GB", "7.0", 32768, "1db5"),
    "T4": Gpu("Tesla T4", "7.5", 15360, "1eb8"),
    "A100": Gpu("NVIDIA A100-SXM4-80GB", "8.0", 81920, "20b2"),
    "RTX 3060 Laptop": Gpu("NVIDIA GeForce RTX 3060 Laptop GPU", "8.6", 6144, "2520"),
    "RTX 4090": Gpu("NVIDIA GeForce RTX 4090", "8.9", 24564, "2684"),
    "RTX 4050 Laptop": Gpu("NVIDIA GeForce RTX 4050 Laptop GPU", "8.9", 6141, "28a1"),
    "L4": Gpu("NVIDIA L4", "8.9", 23034, "27b8"),
    "H100": Gpu("NVIDIA H100 80GB HBM3", "9.0", 81559, "2330"),
    "H200": Gpu("NVIDIA H200", "9.0", 143771, "2335"),
    "B200": Gpu("NVIDIA B200", "10.0", 183359, "2901"),
    "RTX A6000": Gpu("NVIDIA RTX A6000", "8.6", 49140, "2230"),
    "RTX 5090": Gpu("NVIDIA GeForce RTX 5090", "12.0", 32607, "2b85"),
    "GB10": Gpu("NVIDIA GB10", "12.1", None, "2e12"),
}

DATA_CENTER = ("A100", "H100", "H200", "B200", "V100", "T4", "L4")


@dataclass(frozen=True, kw_only=True)
class Nvidia:
    """GPUs with their driver. Without a driver the cards are on the bus and nothing else."""

    cards: tuple[Gpu, ...]
    driver: str | None
    library: str | None = None
    """Version of libcuda where it is not the kernel module's; empty for none."""
    cuda: str | None = None
    """What nvidia-smi's banner says; by the driver's branch where not given."""
    says: str | None = None
    """What nvidia-smi prints in place of any answer."""
    apps: str = ""
    """Answer to --query-compute-apps: lines of `GPU number, pid, name, MiB`."""
    listing: str | None = None
    """Answer to -L where there is more than GPUs (MIG devices)."""
    knows: str = ""
    """Fields that this nvidia-smi does not know, a pattern of awk."""
    unlisted: tuple[str, ...] = ()
    """Cards that are on the bus behind the others and that nvidia-smi does not list, by their names."""
    warns: str = ""
    """What nvidia-smi prints before its rows."""
    nodes: bool = True
    wsl: bool = False


def nvidia(*cards: str | Gpu, driver: str | None = "580.95.05", **more: object) -> Nvidia:
    """Cards by their names in `CARDS`; `2 * RTX 5090` gives two."""
    found: list[Gpu] = []
    for card in cards:
        if isinstance(card, Gpu):
            found.append(card)
            continue
        count, _, name = card.rpartition(" * ")
        found += [CARDS[name]] * int(count or 1)
    return Nvidia(cards=tuple(found), driver=driver, **more)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Ascend:
    """NPUs with driver, firmware and CANN."""

    count: int = 8
    """Chips; each is a device."""
    name: str = "910B2"
    pci: str = "d802"
    chips: int = 1
    """Chips of one NPU: 2 on an A3."""
    driver: str | None = "25.2.0"
    inner: str = "V100R001C21"
    driver_accepts: tuple[str, ...] = ("C19", "C20", "C21", "C22", "C23")
    health: Mapping[int, str] = field(default_factory=dict)
    used: Mapping[int, int] = field(default_factory=dict)
    """Chip -> MB of HBM that a process holds."""
    lists_processes: bool = True
    """Whether npu-smi shows that process; those of other containers it does not."""
    says: str | None = None
    """What npu-smi prints in place of any answer."""
    nodes: bool = True
    on_bus: bool = True
    cann: str | None = "8.2.RC1"
    accepts: tuple[str, ...] = ("C15", "C18", "C19", "C20", "C21", "C23")
    """Driver generations that CANN names."""
    kernels: bool = True
    sourced: bool = True


@dataclass(frozen=True, kw_only=True)
class Torch:
    """A torch wheel. `sass` maps an architecture to its number of entries."""

    version: str
    cuda: str | None = None
    hip: str | None = None
    sass: Mapping[str, int] = field(default_factory=dict)
    ptx: Mapping[str, int] = field(default_factory=dict)
    tag: str = ""
    """Interpreter of its extension where it is not the environment's: `310`."""
    triton: str | None = "3.5.1"
    ptxas: str | None = None
    needs: tuple[str, ...] = ()
    """Libraries that libtorch_cpu.so needs beside torch's own."""
    glibc: str | None = None
    parts: tuple[str, ...] = ("libuv", "gloo", "nccl")
    lacks: tuple[str, ...] = ()
    """NVIDIA libraries left out of the environment, by the beginning of their names."""
    platform: str = "manylinux_2_28"
    requires: tuple[str, ...] = ()
    """Lines of its metadata: `nvidia-nccl-cu12==2.27.5; platform_system == "Linux"`."""
    asks: tuple[str, ...] = ()
    """NVIDIA's functions that libtorch_cuda.so calls."""
    has: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """NVIDIA library, by the beginning of its name -> functions that it defines."""
    cudnn: tuple[str, ...] = ()
    """Parts of cuDNN beside libcudnn.so.9: `graph`, `ops`, …"""
    glibcxx: str | None = None
    """Version of libstdc++ that it asks for."""
    folders: str = ""
    """A further folder in which its libraries look."""
    search: str = "rpath"
    """How its libraries find NVIDIA's: `rpath`, or `runpath`, which LD_LIBRARY_PATH overrides."""


def even(archs: str, count: int = 12) -> dict[str, int]:
    """The same number of entries for each architecture of a list."""
    return dict.fromkeys(archs.split(), count)


CU126 = even("5.0 6.0 7.0 7.5 8.0 8.6 9.0")
CU128 = even("7.0 7.5 8.0 8.6 9.0 10.0 12.0")
WHEELS = {
    "cpu": Torch(version="2.9.1+cpu", triton=None),
    "cu124": Torch(version="2.6.0+cu124", cuda="12.4", sass=CU126 | {"8.9": 1}, triton="3.2.0"),
    "cu126": Torch(version="2.9.1+cu126", cuda="12.6", sass=CU126),
    "cu128": Torch(version="2.9.1+cu128", cuda="12.8", sass=CU128),
    "cu128 2.11": Torch(version="2.11.0+cu128", cuda="12.8",
                        sass=even("7.5 8.0 8.6 9.0 10.0 12.0"), triton="3.6.0"),
    "cu130": Torch(version="2.9.1+cu130", cuda="13.0", sass=even("7.5 8.0 8.6 9.0 10.0 12.0"),
                   ptx={"12.0": 12}),
    "cu130 arm": Torch(version="2.9.1+cu130", cuda="13.0", sass=even("8.0 9.0 10.0 11.0 12.0")),
    "cu132": Torch(version="2.15.0", cuda="13.2", triton="3.9.0",
                   sass=even("7.5 8.0 8.6 9.0 10.0 12.0") | {"8.9": 1, "10.3": 2, "12.1": 1}),
    "rocm": Torch(version="2.9.1+rocm6.4", hip="6.4.43484"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TorchNpu:
    """A torch_npu wheel and the Python packages around it."""

    version: str
    requires: str = ""
    """The torch it declares; its own release where not given."""
    needs: tuple[str, ...] = ()
    """Libraries beside the usual ones."""
    tag: str = ""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Everything about a machine; what is not said is ordinary and healthy."""

    arch: str = "x86_64"
    distro: str = "ubuntu"
    kernel: str = "6.14.0-33-generic"
    glibc: str | None = "2.39"
    """None for musl."""
    memory: int = 64
    """GiB."""
    env: Mapping[str, str] = field(default_factory=dict)
    nvidia: Nvidia | None = None
    ascend: Ascend | None = None
    python: str = "3.12.3"
    """With a `t` at its end for a free-threaded one."""
    prefix: str = "/opt/venv"
    site_name: str = "site-packages"
    torch: Torch | str | None = None
    torch_npu: TorchNpu | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    """Distribution -> version, or version and pins: `0.24.1 torch==2.9.1`; `-` takes one away."""
    records: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Distribution -> lines of its RECORD."""
    rustbpe: str | None = "abi3"
    """Tag of its extension; None for none."""
    tools: Mapping[str, str | None] = field(default_factory=dict)
    """Program -> version beside the usual ones; None takes one away."""
    toolkits: tuple[str, ...] = ()
    """CUDA toolkits; the first is the one that /usr/local/cuda leads to."""
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    programs: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    @property
    def site(self) -> str:
        """Where packages lie."""
        return f"{self.lib}/{self.site_name}"

    @property
    def lib(self) -> str:
        """Folder of the interpreter's library."""
        minor = ".".join(self.python.rstrip("t").split(".")[:2])
        return f"{self.prefix}/lib/python{minor}{'t' if self.python.endswith('t') else ''}"

    @property
    def tag(self) -> str:
        """`312`."""
        return self.lib.rsplit("python", 1)[-1].replace(".", "")

    @property
    def wheel(self) -> Torch | None:
        """Its torch."""
        return WHEELS[self.torch] if isinstance(self.torch, str) else self.torch

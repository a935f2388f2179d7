"""Makes machines to examine: a short description becomes a tree for `--root`.

Formats are those of real machines: what nvidia-smi and npu-smi print and refuse, version.info and
install.info of Ascend, wheels with their RPATHs, libraries that are whole ELF files with fatbins.
Every part of a tree can be replaced or taken away: `files`, `programs`, `links` and `without` of a
`Machine` are applied last, in this order.
"""

from __future__ import annotations

import itertools
import shutil
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

# --- ELF -------------------------------------------------------------------------------------

MACHINES = {"x86_64": 62, "aarch64": 183, "i686": 3}


def fatbin(sass: Mapping[str, int], ptx: Mapping[str, int] | None = None) -> bytes:
    """A `.nv_fatbin` section with so many entries of machine code and PTX per architecture."""
    entries = b""
    for kind, counts in ((2, sass), (1, ptx or {})):
        for arch, count in counts.items():
            number = int(arch.rstrip("a").replace(".", ""))
            flags = 1 << 20 if arch.endswith("a") else 0
            head = struct.pack("<HHIQ12xIIIQQQ", kind, 0x101, 64, 8, number, 0, 0, flags, 0, 0)
            entries += (head[:64].ljust(64, b"\0") + b"\x7fcode..\0") * count
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entries)) + entries


def elf(
    soname: str = "",
    *,
    needed: Sequence[str] = (),
    rpath: str = "",
    runpath: str = "",
    strings: Sequence[str] = (),
    code: bytes = b"",
    versions: Mapping[str, Sequence[str]] | None = None,
    defines: Sequence[str] = (),
    asks: Sequence[str] = (),
    arch: str = "x86_64",
) -> bytes:
    """A whole shared library: what a loader asks of it, some text, GPU code, and no program.

    Args:
        strings: what its `.rodata` holds.
        code: its `.nv_fatbin`.
        versions: library -> symbol versions asked of it.
        defines: dynamic symbols that it has.
        asks: dynamic symbols that it needs.
    """
    names = bytearray(b"\0")

    def name(text: str) -> int:
        names.extend(text.encode() + b"\0")
        return len(names) - len(text.encode()) - 1

    dynamic = [(1, name(library)) for library in needed]
    dynamic += [
        (tag, name(text)) for tag, text in ((14, soname), (15, rpath), (29, runpath)) if text
    ]
    symbols = bytes(24) + b"".join(
        struct.pack("<IBBHQQ", name(symbol), 0x12, 0, section, 0, 0)
        for section, group in ((1, defines), (0, asks))
        for symbol in group
    )
    verneed = _verneed(
        [(name(lib), [name(v) for v in asked]) for lib, asked in (versions or {}).items()]
    )
    body = {
        ".dynsym": symbols,
        ".dynstr": bytes(names),
        ".gnu.version_r": verneed,
        ".rodata": "\0".join(strings).encode() + b"\0",
        ".nv_fatbin": code,
    }
    offsets, at = {}, 64 + 2 * 56
    for section, data in body.items():
        offsets[section] = at
        at += -(-len(data) // 8) * 8
    dynamic += [(5, offsets[".dynstr"]), (10, len(names)), (6, offsets[".dynsym"]), (11, 24)]
    if verneed:
        dynamic += [(0x6FFFFFFE, offsets[".gnu.version_r"]), (0x6FFFFFFF, len(versions or {}))]
    body[".dynamic"] = b"".join(struct.pack("<qQ", *entry) for entry in [*dynamic, (0, 0)])
    offsets[".dynamic"] = at
    end = at + len(body[".dynamic"])
    title = b"\0" + b"".join(section.encode() + b"\0" for section in [*body, ".shstrtab"])
    kinds = {".dynsym": 11, ".dynstr": 3, ".gnu.version_r": 0x6FFFFFFE, ".dynamic": 6}
    headers = bytes(64)
    for section, data in [*body.items(), (".shstrtab", title)]:
        kind = 3 if section == ".shstrtab" else kinds.get(section, 1)
        link = 2 if kind not in (1, 3) else 0
        place = offsets.get(section, end)
        where = title.index(section.encode() + b"\0")
        headers += struct.pack("<IIQQQQIIQQ", where, kind, 2, place, place, len(data), link, 0, 8,
                               {11: 24, 6: 16}.get(kind, 0))  # fmt: skip
    table_at = end + len(title)
    head = struct.pack("<4s5B7xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 0, 3, MACHINES[arch], 1, 0, 64,
                       table_at, 0, 64, 56, 2, 64, len(body) + 2, len(body) + 1)  # fmt: skip
    segments = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, end, end, 8)
    size = len(body[".dynamic"])
    segments += struct.pack("<IIQQQQQQ", 2, 6, at, at, at, size, size, 8)
    padded = b"".join(data.ljust(-(-len(data) // 8) * 8, b"\0") for data in body.values())
    return head + segments + padded[: end - 64 - 112] + title + headers


def _verneed(libraries: Sequence[tuple[int, Sequence[int]]]) -> bytes:
    """The section that asks for symbol versions, names as offsets into the strings."""
    data = b""
    for i, (library, versions) in enumerate(libraries):
        size = 16 + 16 * len(versions)
        following = size if i + 1 < len(libraries) else 0
        data += struct.pack("<HHIII", 1, len(versions), library, 16, following)
        for j, version in enumerate(versions):
            step = 16 if j + 1 < len(versions) else 0
            data += struct.pack("<IHHII", 0, 0, j + 2, version, step)
    return data


# --- what a machine is made of ------------------------------------------------------------------


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
    triton: str | None = ""
    """Triton's version; empty for the one of this torch, None for none."""
    ptxas: str | None = None
    needs: tuple[str, ...] = ()
    """Libraries that libtorch_cpu.so needs beside torch's own."""
    glibc: str | None = None
    parts: tuple[str, ...] = ("libuv", "gloo", "nccl")
    lacks: tuple[str, ...] = ()
    """NVIDIA libraries left out of the environment, by the beginning of their names."""
    platform: str = "manylinux_2_28"


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


NPU_PACKAGES = {
    "numpy": "1.26.4",
    "PyYAML": "6.0.2",
    "decorator": "5.1.1",
    "attrs": "24.2.0",
    "psutil": "6.0.0",
    "scipy": "1.13.1",
}
MODULES = {"PyYAML": "yaml", "attrs": "attr"}

TOOLS = {"gcc": "13.3.0", "g++": "13.3.0", "ld": "2.42", "make": "4.3", "git": "2.43.0",
         "rustc": "1.90.0", "cargo": "1.90.0", "maturin": "1.9.4"}  # fmt: skip
SAY = {"ld": "GNU ld (GNU Binutils) {}", "make": "GNU Make {}", "git": "git version {}",
       "cmake": "cmake version {}", "rustc": "rustc {} (0123456789 2025-09-14)",
       "cargo": "cargo {} (0123456789 2025-07-30)", "gcc": "gcc (GCC) {}", "g++": "g++ (GCC) {}",
       "clang": "Ubuntu clang version {} (1ubuntu1)", "uv": "uv {}"}  # fmt: skip

DISTROS = {
    "ubuntu": ("ubuntu", "24.04", "debian", "Ubuntu 24.04.3 LTS"),
    "debian": ("debian", "12", "", "Debian GNU/Linux 12 (bookworm)"),
    "centos": ("centos", "7", "rhel fedora", "CentOS Linux 7 (Core)"),
    "alpine": ("alpine", "3.22.0", "", "Alpine Linux v3.22"),
    "openeuler": ("openEuler", "22.03", "", "openEuler 22.03 (LTS-SP4)"),
}


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
    torch: Torch | str | None = None
    torch_npu: TorchNpu | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    """Distribution -> version, or version and pins: `0.24.1 torch==2.9.1`; `-` takes one away."""
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
        return f"{self.lib}/site-packages"

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


class Tree:
    """A folder that is written to by the machine's own paths."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def file(self, path: str, data: str | bytes = "") -> None:
        """Write a file."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data.encode() if isinstance(data, str) else data)

    def program(self, path: str, script: str) -> None:
        """Write a shell script; a plain name goes to /usr/bin."""
        path = path if "/" in path else f"/usr/bin/{path}"
        self.file(path, f"#!/bin/sh\n{script}\n")
        (self.root / path.lstrip("/")).chmod(0o755)

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    def remove(self, path: str) -> None:
        """Take away a file or a folder, which must be there."""
        place = self.root / path.lstrip("/")
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink()


def build(machine: Machine, root: Path) -> Path:
    """Write a machine below a folder."""
    tree = Tree(root)
    libraries = Libraries(machine)
    _host(tree, machine)
    if machine.nvidia:
        _nvidia(tree, machine.nvidia, machine, libraries)
    if machine.ascend:
        _ascend(tree, machine.ascend, machine)
    _python(tree, machine)
    for i, version in enumerate(machine.toolkits):
        _toolkit(tree, version, machine, first=i == 0)
    libraries.write(tree)
    for path, data in machine.files.items():
        tree.file(path, data)
    for path, script in machine.programs.items():
        tree.program(path, script)
    for path, target in machine.links.items():
        tree.link(path, target)
    for path in machine.without:
        tree.remove(path)
    return root


# --- the system ----------------------------------------------------------------------------------


class Libraries:
    """Libraries of the system, and the loader's cache that lists them."""

    def __init__(self, machine: Machine) -> None:
        self.arch = machine.arch
        self.folder = f"/usr/lib/{machine.arch}-linux-gnu"
        base = ("libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6", "libgomp.so.1")
        self.paths = [f"{self.folder}/{name}" for name in (base if machine.glibc else ())]
        self.linked: dict[str, str] = {}

    def add(self, path: str, real: str = "") -> None:
        """A library, perhaps as a link to the file with its version."""
        self.paths.append(path)
        if real:
            self.linked[path] = real

    def write(self, tree: Tree) -> None:
        """Write them all, and `ldconfig -p`."""
        for path in self.paths:
            name = path.rsplit("/", 1)[-1]
            data = elf(name, arch=self.arch, strings=["GLIBCXX_3.4.32"])
            if path in self.linked:
                tree.link(path, self.linked[path])
                path = f"{path.rsplit('/', 1)[0]}/{self.linked[path]}"
            tree.file(path, data)
        lines = [f"\t{p.rsplit('/', 1)[-1]} (libc6) => {p}" for p in self.paths]
        text = f"{len(lines)} libs found in cache `/etc/ld.so.cache'\n" + "\n".join(lines)
        tree.program("/usr/sbin/ldconfig", f"cat <<'EOF'\n{text}\nEOF")


def _host(tree: Tree, machine: Machine) -> None:
    name, version, like, pretty = DISTROS[machine.distro]
    tree.file(
        "/etc/os-release",
        f'PRETTY_NAME="{pretty}"\nVERSION_ID="{version}"\nID="{name}"\nID_LIKE="{like}"\n',
    )
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/home/user"} | _sourced(machine)
    env |= machine.env
    tree.file("/etc/environment", "".join(f"{k}={v}\n" for k, v in env.items()))
    processor = (
        "CPU implementer\t: 0x48\nCPU part\t: 0xd01\nFeatures\t: fp asimd\n"
        if machine.arch == "aarch64"
        else "model name\t: AMD EPYC 9654\ncpu cores\t: 4\nflags\t\t: fpu avx2 avx512f\n"
    )
    cores = (f"processor\t: {i}\n{processor}" for i in range(4))
    tree.file("/proc/cpuinfo", "\n".join(cores))
    kib = machine.memory << 20
    tree.file(
        "/proc/meminfo",
        f"MemTotal:       {kib} kB\nMemAvailable:   {kib * 3 // 4} kB\nSwapTotal:      0 kB\n",
    )
    tree.file("/proc/mounts", "/dev/sda1 / ext4 rw 0 0\ntmpfs /dev/shm tmpfs rw,nosuid,nodev 0 0\n")
    tree.file("/proc/sys/kernel/osrelease", f"{machine.kernel}\n")
    tree.program(
        "uname",
        f'case "$1" in -m) echo {machine.arch};; -r) echo {machine.kernel};; *) echo Linux;; esac',
    )
    tree.program("id", "echo 'uid=1001(user) gid=1001(user) groups=1001(user),1000(HwHiAiUser)'")
    if machine.glibc:
        tree.program("getconf", f'[ "$1" = GNU_LIBC_VERSION ] && echo "glibc {machine.glibc}"')
    else:
        tree.file(f"/lib/ld-musl-{machine.arch}.so.1")
    for tool, release in (TOOLS | machine.tools).items():
        if release is None:
            continue
        say = SAY.get(tool, f"{tool} {{}}").format(release)
        bare = f'[ "$1" = -dumpfullversion ] && echo {release} && exit; ' if "g" in tool else ""
        tree.program(tool, f"{bare}echo '{say}'")


# --- NVIDIA ----------------------------------------------------------------------------------------

NVIDIA_SMI = r"""
apps() { cat <<'EOF'
@APPS@
EOF
}
data() { cat <<'EOF'
@DATA@
EOF
}
case "$1" in
--query-gpu=*)
  data | awk -F'|' -v q="${1#--query-gpu=}" '
  NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; n = split(q, field, ",")
    for (i = 1; i <= n; i++) if (field[i] !~ /^(index|name|uuid|driver_version|compute_cap|serial|gpu_recovery_action|(pci|memory|mig|ecc|retired_pages|remapped_rows|fabric|power|utilization|temperature|clocks)\..*)$/ || (@KNOWS@)) {
      printf "Field \"%s\" is not a valid field to query.\n\n", field[i]; status = 2; exit }
    next }
  { for (i = 1; i <= n; i++) printf "%s%s", (i > 1 ? ", " : ""), (field[i] in column ? $column[field[i]] : "[N/A]"); print "" }
  END { exit status }' ;;
--query-compute-apps=*) apps | sed '/^$/d' ;;
-L) cat <<'EOF'
@LIST@
EOF
;;
topo) printf '@TOPO@' ;;
"") cat <<'EOF'
| NVIDIA-SMI @DRIVER@             Driver Version: @DRIVER@     CUDA Version: @CUDA@     |
EOF
;;
*) echo "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help."; exit 2 ;;
esac
"""  # noqa: E501

DRIVER_CUDA = {"470": "11.4", "525": "12.0", "535": "12.2", "545": "12.3", "550": "12.4",
               "560": "12.6", "570": "12.8", "575": "12.9", "580": "13.0", "581": "13.0",
               "590": "13.1"}  # fmt: skip


def _bus(number: int) -> str:
    return f"0000:{0x11 + 8 * number:02x}:00.0"


def _uuid(number: int) -> str:
    return f"GPU-0000000{number}-1111-2222-3333-444444444444"


def smi(it: Nvidia) -> str:
    """An nvidia-smi that answers for some cards."""
    if it.says is not None:
        return f"cat <<'EOF'\n{it.says}\nEOF\nexit 9"
    driver = str(it.driver)
    rows = [_smi_row(i, card, driver) for i, card in enumerate(it.cards)]
    fields = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    table = ["|".join(fields), *("|".join(row.get(f, "[N/A]") for f in fields) for row in rows)]
    listed = [f"GPU {i}: {c.name} (UUID: {_uuid(i)})" for i, c in enumerate(it.cards)]
    numbers = range(len(it.cards))
    links = [
        f"GPU{i}" + "".join("\\t X " if i == j else "\\tNV18" for j in numbers) for i in numbers
    ]
    apps = [line.split(", ", 1) for line in it.apps.splitlines()]
    values = {
        "APPS": "\n".join(f"{_uuid(int(number))}, {rest}" for number, rest in apps),
        "DATA": "\n".join(table),
        "LIST": it.listing if it.listing is not None else "\n".join(listed),
        "TOPO": "".join(f"\\tGPU{i}" for i in numbers) + "\\n" + "\\n".join(links) + "\\n",
        "DRIVER": driver,
        "CUDA": it.cuda or DRIVER_CUDA.get(driver.split(".")[0], "13.0"),
        "KNOWS": f"field[i] ~ /{it.knows}/" if it.knows else "0",
    }
    script = NVIDIA_SMI
    for key, value in values.items():
        script = script.replace(f"@{key}@", value)
    return script


def _smi_row(number: int, card: Gpu, driver: str) -> dict[str, str]:
    memory = {"memory.total": str(card.memory), "memory.free": str((card.memory or 0) - 18)}
    reliable = card in [CARDS[name] for name in DATA_CENTER]
    answers = {
        "index": str(number),
        "name": card.name,
        "uuid": _uuid(number),
        "pci.bus_id": f"0000{_bus(number).upper()}",
        "pci.device_id": f"0x{card.pci.upper()}10DE",
        "driver_version": driver,
        "compute_cap": card.cc,
        "gpu_recovery_action": "None",
    }
    if reliable or card.fields.keys() & {"mig.mode.current", "ecc.mode.current"}:
        answers |= {"mig.mode.current": "Disabled", "ecc.mode.current": "Enabled",
                    "ecc.errors.uncorrected.volatile.total": "0", "remapped_rows.pending": "No",
                    "remapped_rows.failure": "No", "retired_pages.pending": "No"}  # fmt: skip
    return answers | (memory if card.memory else {}) | dict(card.fields)


def _nvidia(tree: Tree, it: Nvidia, machine: Machine, libraries: Libraries) -> None:
    for i, card in enumerate(it.cards if not it.wsl else ()):
        _pci(tree, _bus(i), "10de", card.pci, "0x030200" if card.memory else "0x030000")
    if it.driver is None:
        return
    if it.wsl:
        tree.file("/dev/dxg")
        libraries.add("/usr/lib/wsl/lib/libcuda.so.1")
        tree.program("/usr/lib/wsl/lib/nvidia-smi", smi(it))
        tree.link("/usr/bin/nvidia-smi", "../lib/wsl/lib/nvidia-smi")
        return
    tree.file("/sys/module/nvidia/version", f"{it.driver}\n")
    tree.file(
        "/proc/driver/nvidia/version",
        f"NVRM version: NVIDIA UNIX Open Kernel Module for {machine.arch}  {it.driver}  Release "
        "Build  (dvs-builder@U22-I3-AM02-24-3)\nGCC version:  gcc version 13.3.0\n",
    )
    for i, card in enumerate(it.cards):
        about = f"Model: \t\t {card.name}\nBus Location: \t {_bus(i)}\n"
        tree.file(f"/proc/driver/nvidia/gpus/{_bus(i)}/information", about)
    if it.nodes:
        for node in ("nvidiactl", "nvidia-uvm", *(f"nvidia{i}" for i in range(len(it.cards)))):
            tree.file(f"/dev/{node}")
    library = it.driver if it.library is None else it.library
    if library:
        for name in ("libcuda.so", "libnvidia-ml.so"):
            libraries.add(f"{libraries.folder}/{name}.1", f"{name}.{library}")
    tree.program("nvidia-smi", smi(it))


def _pci(tree: Tree, address: str, vendor: str, device: str, kind: str) -> None:
    for name, value in (("vendor", f"0x{vendor}"), ("device", f"0x{device}"), ("class", kind)):
        tree.file(f"/sys/bus/pci/devices/{address}/{name}", f"{value}\n")


TOOLKIT_ARCHS = {"11": "52 60 61 70 75 80 86 87 89 90", "12": "52 60 61 70 75 80 86 89 90",
                 "12.8": "52 60 61 70 75 80 86 89 90 100 120",
                 "13": "75 80 86 87 88 89 90 100 110 103 120 121"}  # fmt: skip


def _toolkit(tree: Tree, version: str, machine: Machine, *, first: bool) -> None:
    home, major = f"/usr/local/cuda-{version}", version.split(".")[0]
    targets = f"{home}/targets/{machine.arch}-linux/lib"
    tree.file(
        f"{home}/version.json", f'{{"cuda": {{"name": "CUDA SDK", "version": "{version}.1"}}}}'
    )
    archs = TOOLKIT_ARCHS.get(version, TOOLKIT_ARCHS[major])
    tree.program(
        f"{home}/bin/nvcc",
        f'case "$1" in --list-gpu-arch) for a in {archs}; do echo compute_$a; done;;\n'
        f"*) echo 'Cuda compilation tools, release {version}, V{version}.88';; esac",
    )
    for name in (f"libcudart.so.{major}", f"libcublas.so.{major}", f"libnvJitLink.so.{major}"):
        tree.file(f"{targets}/{name}", elf(name, arch=machine.arch))
    tree.link(f"{home}/lib64", f"targets/{machine.arch}-linux/lib")
    if first:
        tree.link("/usr/local/cuda", f"cuda-{version}")


# --- Ascend ----------------------------------------------------------------------------------------

CANN_LIBRARIES = ("libascendcl", "libhccl", "libacl_op_compiler", "libge_runner", "libgraph",
                  "libruntime")  # fmt: skip
RULE = "+---------------------------+---------------+------------------------------------+"


def _cann_home(it: Ascend) -> tuple[str, str]:
    """Where a toolkit lies, and what its environment calls it: the layout changed with 8.5."""
    base = "/usr/local/Ascend"
    if tuple(int(n) for n in str(it.cann).split(".")[:2]) < (8, 5):
        return f"{base}/ascend-toolkit/{it.cann}", f"{base}/ascend-toolkit/latest"
    return f"{base}/cann-{it.cann}", f"{base}/cann-{it.cann}"


def _sourced(machine: Machine) -> dict[str, str]:
    """What set_env.sh sets."""
    it = machine.ascend
    if it is None or it.cann is None or not it.sourced:
        return {}
    home = _cann_home(it)[1]
    tbe = f"{home}/opp/built-in/op_impl/ai_core/tbe"
    driver = "/usr/local/Ascend/driver/lib64"
    return {
        "LD_LIBRARY_PATH": f"{home}/lib64:{home}/lib64/plugin/opskernel:{driver}:{driver}/common/",
        "PYTHONPATH": f"{home}/python/site-packages:{tbe}",
        "ASCEND_TOOLKIT_HOME": home,
        "ASCEND_HOME_PATH": home,
        "ASCEND_OPP_PATH": f"{home}/opp",
    }


def _ascend(tree: Tree, it: Ascend, machine: Machine) -> None:
    for i in range(it.count):
        if it.on_bus:
            _pci(tree, _bus(i), "19e5", it.pci, "0x120000")
        if it.nodes:
            tree.file(f"/dev/davinci{i}")
    for node in ("davinci_manager", "devmm_svm", "hisi_hdc") if it.nodes else ():
        tree.file(f"/dev/{node}")
    if it.driver:
        _ascend_driver(tree, it)
    if it.cann:
        _cann(tree, it, machine)


def _brackets(generations: Iterable[str]) -> str:
    return ",".join(f"[V100R001{c}]" for c in generations)


def _ascend_driver(tree: Tree, it: Ascend) -> None:
    base = "/usr/local/Ascend"
    tree.file(
        "/etc/ascend_install.info",
        f"UserName=HwHiAiUser\nUserGroup=HwHiAiUser\nDriver_Install_Path_Param={base}\n"
        "Driver_Install_For_All=no\n",
    )
    tree.file("/proc/modules", "drv_davinci_intf_host 20480 12 - Live 0x0 (OE)\n")
    tree.file(
        f"{base}/driver/version.info",
        f"Version={it.driver}\nascendhal_version=7.35.23\nInnerversion={it.inner}SPC008B208\n"
        f"compatible_version={_brackets(it.driver_accepts)}\ncompatible_version_fw=[7.0.0,8.9.9]\n"
        f"package_version={it.driver}\n",
    )
    tree.file(
        f"{base}/firmware/version.info",
        f"Version=7.7.0.6.236\npackage_version={it.driver}\ncompatible_version_drv="
        "[24.1,24.1.],[25.0,25.0.],[25.2,25.2.],[25.3,25.3.],[25.5,25.5.],[26.0,26.0.]\n",
    )
    tree.file(f"{base}/driver/lib64/driver/libascend_hal.so", elf("libascend_hal.so"))
    said, status = (it.says, 1) if it.says else (_npu_table(it), 0)
    board = f"\tNPU ID : 0\n\tChip Name : {it.name}\n\tNPU Name : 9392\n\tPCI Device ID : 0xD803"
    tree.program(
        "/usr/local/bin/npu-smi",
        f"""case "$*" in "info -t board"*) cat <<'EOF'\n{board}\nEOF\nexit;; info) ;;
*) echo 'Command or option is not found.'; exit 1;; esac\ncat <<'EOF'\n{said}\nEOF\nexit {status}""",
    )


def _npu_table(it: Ascend) -> str:
    lines = [
        RULE,
        f"| npu-smi {it.driver}   Version: {it.driver}   |",
        RULE,
        "| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages |",
        "| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage |",
    ]
    held = []  # fmt: skip
    for i in range(it.count):
        npu, chip = divmod(i, it.chips)
        numbers = f"{chip}" if it.chips == 1 else f"{chip}     {i}"
        used = it.used.get(i, 3400)
        lines += [f"| {npu}     {it.name:<19} | {it.health.get(i, 'OK'):<13} | 93.1   36   0    / 0   |",
                  f"| {numbers:<25} | {_bus(i).upper()}  | 0      0    / 0          {used} / 65536 |",
                  RULE]  # fmt: skip
        if i in it.used:
            held.append(
                f"| {npu}       {chip}                 | {4242 + i}          | python  | {used}  |"
            )
    lines += [
        "| NPU     Chip              | Process id    | Process name | Process memory(MB) |",
        RULE,
    ]
    return "\n".join([*lines, *(held or ["| No running processes found in NPU 0 |"])])


def _cann(tree: Tree, it: Ascend, machine: Machine) -> None:
    home, _ = _cann_home(it)
    base, platform = "/usr/local/Ascend", f"{machine.arch}-linux"
    version = f"Version={it.cann}.0.201\nversion_dir={it.cann}\ntimestamp=20250724_194044950\n"
    for part in ("runtime", "toolkit", "opp"):
        tree.file(f"{home}/{part}/version.info", version)
    info = f"version={it.cann}\ninnerversion=V100R001C22SPC001B231\n"
    info += f"compatible_version={_brackets(it.accepts)}\narch={machine.arch}\nos=linux\n"
    new = home.startswith(f"{base}/cann-")
    packages = {"toolkit": "toolkit", "ops" if new else "kernels": "kernels-910b"}
    for name, package in packages.items():
        if name == "toolkit" or it.kernels:
            text = f"package_name=Ascend-cann-{package}\n{info}path={home}/{platform}\n"
            tree.file(f"{home}/{platform}/ascend_{name}_install.info", text)
    for library in CANN_LIBRARIES:
        tree.file(f"{home}/{platform}/lib64/{library}.so", elf(f"{library}.so", arch=machine.arch))
    tree.link(f"{home}/lib64", f"{platform}/lib64")
    tree.file(f"{home}/python/site-packages/tbe/__init__.py")
    tree.file(f"{home}/opp/built-in/op_impl/ai_core/tbe/impl/__init__.py")
    tree.file(f"{base}/ascend-toolkit/set_env.sh", "export ASCEND_HOME_PATH=…\n")
    if new:
        tree.file(f"{home}/set_env.sh", "export ASCEND_HOME_PATH=…\n")
        tree.link(f"{base}/cann", f"cann-{it.cann}")
        tree.link(f"{base}/ascend-toolkit/latest", "../cann")
    else:
        for part in ("runtime", "toolkit", "opp", "python", "lib64"):
            tree.link(f"{base}/ascend-toolkit/latest/{part}", f"../{it.cann}/{part}")


# --- Python ----------------------------------------------------------------------------------------


def _python(tree: Tree, machine: Machine) -> None:
    version = machine.python.rstrip("t")
    if machine.prefix == "/opt/venv":
        tree.file(
            f"{machine.prefix}/pyvenv.cfg",
            f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\n",
        )
    refuse = "echo 'this interpreter must not be executed' >&2; exit 99"
    for name in ("python", "python3"):
        tree.program(f"{machine.prefix}/bin/{name}", refuse)
    tree.program("python3", f'[ "$1" = --version ] && echo "Python {version}" || {{ {refuse}; }}')
    npu = NPU_PACKAGES if machine.torch_npu else {}
    for name, spec in ({"pip": "24.0"} | npu | machine.packages).items():
        if spec != "-":
            number, _, pin = spec.partition(" ")
            _package(tree, machine, name, number, requires=[pin] if pin else [])
    if machine.rustbpe:
        tag = machine.rustbpe if machine.rustbpe == "abi3" else f"cpython-{machine.rustbpe}"
        suffix = "abi3.so" if tag == "abi3" else f"{tag}-{machine.arch}-linux-gnu.so"
        tree.file(f"{machine.site}/rustbpe/__init__.py")
        tree.file(f"{machine.site}/rustbpe/rustbpe.{suffix}", elf(arch=machine.arch))
    if machine.wheel:
        _torch(tree, machine.wheel, machine)
    if machine.torch_npu:
        _torch_npu(tree, machine.torch_npu, machine)


def _package(
    tree: Tree, machine: Machine, name: str, version: str, requires: Sequence[str] = ()
) -> None:
    """A distribution's metadata and an empty module."""
    folder = f"{machine.site}/{name.replace('-', '_')}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {item}" for item in requires]
    tree.file(f"{folder}/METADATA", "\n".join(lines) + "\n")
    module = MODULES.get(name, name.replace("-", "_"))
    tree.file(f"{machine.site}/{module}/__init__.py")


NVIDIA_PACKAGES = {
    "cuda_runtime": "libcudart.so",
    "cublas": "libcublas.so libcublasLt.so",
    "cudnn": "libcudnn.so.9",
    "cusparse": "libcusparse.so",
    "nccl": "libnccl.so.2",
    "nvjitlink": "libnvJitLink.so",
}
TRITONS = {"2.6": "3.2.0", "2.9": "3.5.1"}


def _torch(tree: Tree, it: Torch, machine: Machine) -> None:
    lib = f"{machine.site}/torch/lib"
    major = it.cuda.split(".")[0] if it.cuda else ""
    libraries = _nvidia_libraries(major) if it.cuda else {}
    _bundle(tree, it, machine, libraries)
    rpath = ":".join([f"$ORIGIN/../../nvidia/{folder}/lib" for folder in libraries] + ["$ORIGIN"])
    versions = {"libc.so.6": [f"GLIBC_{it.glibc}"]} if it.glibc else {}
    cpu = (
        ["c10d ProcessGroupMPI is not built"]
        + ["N4c10d6detail16LibUVStoreDaemonE"] * ("libuv" in it.parts)
        + ["ProcessGroupGloo"] * ("gloo" in it.parts)
    )
    cuda = ["ProcessGroupNCCL"] * ("nccl" in it.parts)
    flat = [name for names in libraries.values() for name in names]
    makes: dict[str, dict[str, object]] = {
        "libc10.so": {},
        "libtorch_cpu.so": {
            "needed": ["libc10.so", *it.needs],
            "strings": cpu,
            "versions": versions,
        },
        "libtorch.so": {"needed": ["libtorch_cpu.so", *["libtorch_cuda.so"] * bool(it.cuda)]},
        "libtorch_python.so": {"needed": ["libtorch.so", "libc10.so"]},
    }
    if it.cuda:
        asked = [name for name in flat if not name.startswith(("libnvJitLink",))]
        makes["libc10_cuda.so"] = {"needed": ["libc10.so"]}
        makes["libtorch_cuda.so"] = {
            "needed": ["libc10_cuda.so", *asked],
            "strings": cuda,
            "code": fatbin(it.sass, it.ptx),
        }
    if it.hip:
        makes["libtorch_hip.so"] = {"needed": ["libc10.so"]}
    for name, options in makes.items():
        data = elf(name, rpath=rpath, arch=machine.arch, **options)  # type: ignore[arg-type]
        tree.file(f"{lib}/{name}", data)
    tree.file(f"{machine.site}/torch/__init__.py")
    assigned = {"__version__": it.version, "cuda": it.cuda, "hip": it.hip, "git_version": "0" * 40}
    lines = "".join(f"{name} = {value!r}\n" for name, value in assigned.items())
    tree.file(f"{machine.site}/torch/version.py", f"{lines}debug = False\n")
    extension = f"_C.cpython-{it.tag or machine.tag}-{machine.arch}-linux-gnu.so"
    needs = elf(needed=["libtorch_python.so"], rpath="$ORIGIN/lib", arch=machine.arch)
    tree.file(f"{machine.site}/torch/{extension}", needs)
    _package(tree, machine, "torch", it.version)
    python = f"cp{it.tag or machine.tag}"
    tree.file(
        f"{machine.site}/torch-{it.version}.dist-info/WHEEL",
        f"Wheel-Version: 1.0\nTag: {python}-{python}-{it.platform}_{machine.arch}\n",
    )
    _triton(tree, it, machine)


def _nvidia_libraries(major: str) -> dict[str, list[str]]:
    """Folder below site-packages/nvidia -> libraries; from CUDA 13 on most share one."""
    found: dict[str, list[str]] = {}
    for package, names in NVIDIA_PACKAGES.items():
        shared = package if major == "12" or package in ("cudnn", "nccl") else f"cu{major}"
        for name in names.split():
            found.setdefault(shared, []).append(name if name[-1].isdigit() else f"{name}.{major}")
    return found


def _bundle(
    tree: Tree, it: Torch, machine: Machine, libraries: Mapping[str, Sequence[str]]
) -> None:
    for folder, names in libraries.items():
        for name in names:
            if name.startswith(it.lacks):
                continue
            more = {}
            if name.startswith("libcusparse"):
                major = name.rsplit(".", 1)[-1]
                more = {
                    "needed": [f"libnvJitLink.so.{major}"],
                    "runpath": "$ORIGIN/../../nvjitlink/lib",
                }
            data = elf(name, arch=machine.arch, **more)  # type: ignore[arg-type]
            tree.file(f"{machine.site}/nvidia/{folder}/lib/{name}", data)


def _triton(tree: Tree, it: Torch, machine: Machine) -> None:
    minor = ".".join(it.version.split(".")[:2])
    version = TRITONS.get(minor, "3.5.1") if it.triton == "" else it.triton
    if not it.cuda or version is None:
        return
    _package(tree, machine, "triton", version)
    release = it.ptxas or (it.cuda if minor in ("2.6", "2.9") else "13.0")
    text = f"Cuda compilation tools, release {release}, V{release}.93"
    tree.file(
        f"{machine.site}/triton/backends/nvidia/bin/ptxas", elf(strings=[text], arch=machine.arch)
    )


def _torch_npu(tree: Tree, it: TorchNpu, machine: Machine) -> None:
    site, arch = machine.site, machine.arch
    release = it.version.split(".post")[0]
    _package(tree, machine, "torch_npu", it.version, [it.requires or f"torch=={release}"])
    tree.file(f"{site}/torch_npu/version.py", f"__version__ = '{it.version}'\n")
    rpath = "$ORIGIN/lib/:$ORIGIN/:$ORIGIN/../../torch_npu.libs"
    cann = (
        "libhccl.so",
        "libascendcl.so",
        "libacl_op_compiler.so",
        "libge_runner.so",
        "libgraph.so",
    )
    own = ("libtorch_python.so", "libtorch.so", "libtorch_cpu.so", "libc10.so")
    library = elf(
        "libtorch_npu.so", needed=[*cann, *own, *it.needs, "libc.so.6"], rpath=rpath, arch=arch
    )
    tree.file(f"{site}/torch_npu/lib/libtorch_npu.so", library)
    extension = f"_C.cpython-{it.tag or machine.tag}-{arch}-linux-gnu.so"
    bridge = elf(needed=["libtorch_npu.so", "libhccl.so", *own], rpath="$ORIGIN/lib", arch=arch)
    tree.file(f"{site}/torch_npu/{extension}", bridge)

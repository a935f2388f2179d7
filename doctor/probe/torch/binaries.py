"""Reads a PyTorch's files: version, GPU architectures, libuv, NCCL, and whether its libraries resolve.

Nothing is imported. What the package says of itself is in version.py; what it can do is in its
libraries.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping

from doctor.errors import Unknown
from doctor.facts import ArchCode, MissingLibrary, TorchBuild
from doctor.machine import fatbin
from doctor.machine.elf import Elf, ElfError
from doctor.machine.linker import Closure, Linker
from doctor.machine.look import Look
from doctor.machine.pyenv import PythonEnvironment, python_tags
from doctor.machine.system import System
from doctor.probe.host import libstdcxx
from doctor.probe.torch import cudnn_parts, symbols
from doctor.probe.torch.packages import Pins

ASSIGNED = re.compile(
    r"^(?P<name>__version__|cuda|hip|xpu|git_version|debug)\b[^=\n]*=\s*"
    r"(?:['\"](?P<text>[^'\"]*)['\"]|(?P<word>None|True|False))",
    re.MULTILINE,
)

PARTS: dict[str, tuple[tuple[str, bytes, str], ...]] = {
    "libuv": (("libtorch_cpu.so", b"16LibUVStoreDaemonE", ".rodata"),),
    "gloo": (
        ("libtorch_cpu.so", b"16ProcessGroupGloo", ".dynstr"),
        ("libtorch_cpu.so", b"ProcessGroupGloo", ".rodata"),
    ),
    "mpi": (("libtorch_cpu.so", b"15ProcessGroupMPIE", ".dynstr"),),
    "distributed": (
        ("libtorch_cpu.so", b"8TCPStoreE", ".dynstr"),
        ("libtorch_cpu.so", b"16LibUVStoreDaemonE", ".rodata"),
        ("libtorch_cpu.so", b"ProcessGroupGloo", ".rodata"),
    ),
    "nccl": (
        ("libtorch_cuda.so", b"16ProcessGroupNCCL", ".dynstr"),
        ("libtorch_cuda.so", b"ProcessGroupNCCL", ".rodata"),
    ),
}
"""Part -> (library, bytes, section), any of which is there exactly when the part was compiled in.

Symbol names come first, they are the shorter section. A class named in PyTorch's messages proves
nothing: every build's text speaks of ProcessGroupMPI. libuv's daemon has no symbol of its own; its
type name lies among the constants.
"""

FULL_COVER = 0.5
"""An architecture with fewer entries than this share of the most frequent one has code for some
special kernels only. In torch 2.15.0+cu132: 9.0 has 476 entries, 10.3 has 59, 8.9 has 1."""

DRIVER_LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1", "libascend_hal.so")
"""They come with a driver; a missing driver is a finding of its own."""

NVIDIA_PREFIXES = ("libcu", "libnv", "libnccl")


def bundled_nvidia(system: System, env: PythonEnvironment | None) -> dict[str, str]:
    """Soname -> path of pip's nvidia libraries, which torch loads by path where its RPATH fails."""
    found: dict[str, str] = {}
    for site in env.sites if env else ():
        for package in system.glob(f"{site}/nvidia"):
            for path in system.glob(f"{package}/lib"):
                name = path.rsplit("/", 1)[-1]
                if ".so" in name:
                    found.setdefault(name, path)
    return found


def read_build(
    system: System,
    linker: Linker,
    folder: str,
    nvidia: Mapping[str, str],
    pins: Pins | None = None,
) -> TorchBuild:
    """Describe the PyTorch whose package folder this is.

    Args:
        nvidia: libraries of pip's packages, by soname.
        pins: how its packages meet what it asks for; what is as it should be is not looked through.
    """
    pins = pins or Pins()
    look = Look()
    stated = look("version", stated_versions, system, folder) or {}
    version = stated.get("__version__") or _source_version(system, folder)
    lib = f"{folder}/lib"
    names = set(look("path", system.names, lib) or ())
    extensions = [n for n in system.names(folder) if n.startswith("_C.") and n.endswith(".so")]
    gpu = _gpu_code(system, lib, sorted(names), look)
    main = gpu.get("libtorch_cuda.so", ())
    parts = _parts(system, lib, names, look)
    closure = _closure(linker, folder, names, extensions)
    cxx = closure.libraries.get(libstdcxx.NAME)
    gaps = tuple(symbols.gaps(system, closure, pins))
    foreign_parts, missing_parts = cudnn_parts.read(linker, closure, pins.cudnn)
    built = bool(extensions) and bool(
        names & {"libtorch_cpu.so", "libtorch.so", "libtorch_cpu.dylib"}
    )
    if version is None:
        look.reasons.setdefault("version", "version.py names no version")
    most = max((code.sass for code in main), default=0)
    present = [c.arch.rstrip("a") for c in main if c.sass]
    covered = [c.arch for c in main if _plain(c) and c.sass and c.sass >= most * FULL_COVER]
    return TorchBuild(
        path=folder,
        version=version,
        local_tag=version.partition("+")[2] or None if version else None,
        flavour=_flavour(stated, names) if stated or names else None,
        cuda=stated.get("cuda"),
        git_commit=stated.get("git_version"),
        debug=None if "debug" not in stated else stated["debug"] == "True",
        cpu_arch=look("cpu_arch", _machine, system, folder, lib, names, extensions),
        python_tags=python_tags(extensions),
        built=built,
        archs=main,
        sibling_archs={k: v for k, v in gpu.items() if k != "libtorch_cuda.so"},
        archs_covered=tuple(covered),
        archs_partial=tuple(dict.fromkeys(a for a in present if a not in covered)),
        archs_ptx=tuple(c.arch for c in main if c.ptx and c.ptx >= most * FULL_COVER),
        cxx11_abi=look("cxx11_abi", _cxx11_abi, system, lib, names),
        needed_libraries=tuple(sorted(_outside(closure, folder))),
        missing_libraries=tuple(_missing(system, closure, look, pins)),
        foreign_libraries=tuple(_foreign(system, closure, nvidia)),
        undefined_symbols=tuple(sorted({name for gap in gaps for name in gap.names})),
        symbol_gaps=gaps,
        foreign_parts=foreign_parts,
        missing_parts=missing_parts,
        glibc_needed=_highest(closure, "GLIBC_"),
        glibcxx_needed=_highest(closure, "GLIBCXX_"),
        libstdcxx=look("libstdcxx", libstdcxx.offered, system, cxx.path)
        if cxx and cxx.path
        else None,
        libstdcxx_path=cxx.path if cxx else None,
        unknown=_with_unreadable(look.reasons, closure),
        libuv=parts["libuv"],
        gloo=parts["gloo"],
        mpi=parts["mpi"],
        distributed=parts["distributed"],
        nccl=parts["nccl"],
    )


def stated_versions(system: System, folder: str) -> dict[str, str]:
    """What a package's version.py assigns; names set to None are left out.

    Raises:
        Unknown: the file is there and no PyTorch's.
    """
    text = system.text(f"{folder}/version.py", 1 << 16)
    if text is None:
        return {}
    found = {
        m["name"]: m["text"] if m["text"] is not None else m["word"]
        for m in ASSIGNED.finditer(text)
        if m["word"] != "None"
    }
    if "__version__" not in found:
        raise Unknown(f"{folder}/version.py names no version")
    return found


def _source_version(system: System, folder: str) -> str | None:
    """Version of a source tree that was never built, from the version.txt above its package."""
    text = system.text(f"{folder.rsplit('/', 1)[0]}/version.txt", 1 << 12)
    return text.strip().splitlines()[0] if text and text.strip() else None


def _flavour(stated: Mapping[str, str], names: set[str]) -> str:
    if "hip" in stated or "libtorch_hip.so" in names:
        return "rocm"
    if "cuda" in stated or "libtorch_cuda.so" in names:
        return "cuda"
    return "xpu" if "xpu" in stated or "libtorch_xpu.so" in names else "cpu"


def _gpu_code(
    system: System, lib: str, names: list[str], look: Look
) -> dict[str, tuple[ArchCode, ...]]:
    """File name -> code by architecture, of libtorch_cuda.so and its siblings that have any."""
    found: dict[str, tuple[ArchCode, ...]] = {}
    for name in names:
        if name.endswith(".so") and ("cuda" in name or "nvshmem" in name):
            field = "archs" if name == "libtorch_cuda.so" else "sibling_archs"
            codes = look(field, _read_codes, system, f"{lib}/{name}")
            if codes:
                found[name] = codes
    return found


def _read_codes(system: System, path: str) -> tuple[ArchCode, ...]:
    try:
        with system.opened(path) as view:
            read = fatbin.read(Elf(view))
    except ElfError as error:
        raise Unknown(f"{path}: {error}") from error
    if read.damaged and not read.counts:
        raise Unknown(f"{path}: its fatbin section is damaged")
    archs = sorted({arch for arch, _ in read.counts}, key=arch_key)
    return tuple(
        ArchCode(
            arch=arch,
            sass=read.counts[arch, fatbin.SASS],
            ptx=read.counts[arch, fatbin.PTX],
            unknown={"sass": "the section is damaged; counts are what is left"}
            if read.damaged
            else {},
        )
        for arch in archs
    )


def arch_key(arch: str) -> tuple[int, int, str]:
    """Sort key of `9.0`, `9.0a`, `12.1`."""
    match = re.match(r"(\d+)\.(\d+)(\w*)", arch)
    return (int(match[1]), int(match[2]), match[3]) if match else (0, 0, arch)


def _plain(code: ArchCode) -> bool:
    return not code.arch[-1].isalpha()


def _parts(system: System, lib: str, names: set[str], look: Look) -> dict[str, bool | None]:
    """Which parts were compiled in; None without the libraries that would tell."""
    found: dict[str, bool | None] = {}
    for library in ("libtorch_cpu.so", "libtorch_cuda.so"):
        own = {part: signs for part, signs in PARTS.items() if signs[0][0] == library}
        if library not in names:
            # a CPU build has no NCCL; without even the CPU library nothing is known
            found |= dict.fromkeys(own, False if "libtorch_cpu.so" in names else None)
            continue
        told = look(library, _search, system, f"{lib}/{library}", own)
        found |= told if told is not None else dict.fromkeys(own)
        if told is None:
            look.reasons |= dict.fromkeys(own, look.reasons.pop(library))
    return found


def _search(
    system: System, path: str, parts: Mapping[str, tuple[tuple[str, bytes, str], ...]]
) -> dict[str, bool]:
    try:
        with system.opened(path) as view:
            elf = Elf(view)
            return {
                part: any(elf.find(needle, section) for _, needle, section in signs)
                for part, signs in parts.items()
            }
    except ElfError as error:
        raise Unknown(f"{path}: {error}") from error


def _machine(
    system: System, folder: str, lib: str, names: set[str], extensions: list[str]
) -> str | None:
    paths = [f"{folder}/{n}" for n in extensions]
    paths += [f"{lib}/{n}" for n in ("libc10.so", "libtorch_cpu.so") if n in names]
    if not paths:
        return None
    try:
        with system.opened(paths[0]) as view:
            return Elf(view).machine
    except ElfError as error:
        raise Unknown(f"{paths[0]}: {error}") from error


def library_machine(system: System, folder: str) -> str | None:
    """Processor that a package's libraries are for; None where none can be read."""
    try:
        with system.opened(f"{folder}/lib/libc10.so") as view:
            return Elf(view).machine
    except (Unknown, ElfError):
        return None


def _cxx11_abi(system: System, lib: str, names: set[str]) -> bool | None:
    """Whether std::string is libstdc++'s new one; None where no symbol tells."""
    if "libc10.so" not in names:
        return None
    try:
        with system.opened(f"{lib}/libc10.so") as view:
            elf = Elf(view)
            if elf.find(b"__cxx11", ".dynstr"):
                return True
            return False if elf.find(b"N3c10", ".dynstr") else None
    except ElfError as error:
        raise Unknown(f"{lib}/libc10.so: {error}") from error


# --- libraries -------------------------------------------------------------------------------


def _closure(linker: Linker, folder: str, names: set[str], extensions: list[str]) -> Closure:
    """What `import torch` loads: one library by hand, the extension, and what they need.

    Where the extension was not built yet, its libraries stand in for it.
    """
    order = ["libtorch_global_deps.so"]
    if not extensions:
        order += ["libtorch_python.so", "libtorch.so", "libtorch_cuda.so"]
    first = [f"{folder}/lib/{name}" for name in order if name in names]
    return linker.closure([*first, *(f"{folder}/{n}" for n in extensions)])


def _missing(system: System, closure: Closure, look: Look, pins: Pins) -> Iterator[MissingLibrary]:
    """Libraries that the loader would not find; a tree without a C library is no whole system."""
    libc = closure.libraries.get("libc.so.6")
    bare = not system.live and libc is not None and libc.path is None
    for item in closure.missing():
        if item.soname in DRIVER_LIBRARIES:
            continue
        if bare and not item.soname.startswith(NVIDIA_PREFIXES):
            look.reasons["missing_libraries"] = "the tree below --root holds no system libraries"
            continue
        yield MissingLibrary(
            name=item.soname,
            needed_by=item.needed_by.rsplit("/", 1)[-1],
            package=pins.packages.get(item.soname),
        )


def _outside(closure: Closure, folder: str) -> set[str]:
    """Sonames that torch's own libraries ask for and that are neither torch's nor the system's."""
    return {
        item.soname
        for item in closure.libraries.values()
        if posixpath.normpath(item.needed_by).startswith(f"{folder}/")
        and not posixpath.normpath(item.path or "").startswith(f"{folder}/")
        and item.via not in ("cache", "default", "path")
    }


def _foreign(system: System, closure: Closure, nvidia: Mapping[str, str]) -> list[str]:
    """NVIDIA libraries that LD_LIBRARY_PATH takes although the environment has its own."""
    return sorted(
        str(item.path)
        for item in closure.libraries.values()
        if item.via == "LD_LIBRARY_PATH"
        and item.path
        and item.soname.startswith(NVIDIA_PREFIXES)
        and item.soname in nvidia
        and system.real(item.path) != system.real(nvidia[item.soname])
    )


def _highest(closure: Closure, prefix: str) -> str | None:
    """Newest symbol version of a family that any library outside the system asks for."""
    numbers = [
        tuple(int(n) for n in version.removeprefix(prefix).split("."))
        for versions in closure.versions.values()
        for version in versions
        if re.fullmatch(rf"{prefix}\d+(\.\d+)+", version)
    ]
    return ".".join(map(str, max(numbers))) if numbers else None


def _with_unreadable(reasons: dict[str, str], closure: Closure) -> dict[str, str]:
    if closure.unreadable:
        path, why = next(iter(closure.unreadable.items()))
        reasons.setdefault("missing_libraries", f"{path}: {why}")
    return reasons

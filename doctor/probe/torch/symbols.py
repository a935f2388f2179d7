"""Whether the libraries that torch gets have what torch asks of them: `undefined symbol`, before it is met.

NVIDIA's functions are looked up, in the library that brings them and then in all others; torch's own C++ names are
ten times as many, and its libraries come in one wheel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from doctor.errors import Unknown
from doctor.facts import SymbolGap
from doctor.machine.elf import Elf, ElfError
from doctor.machine.elf_symbols import SymbolTable
from doctor.machine.linker import BASE_LIBRARIES, Closure, Loaded
from doctor.machine.system import System
from doctor.probe.torch.packages import Pins

T = TypeVar("T")


class Family(NamedTuple):
    """How the functions of a library begin, the library's name, and the package that brings it."""

    prefix: bytes
    library: str
    package: str


FAMILIES = (
    Family(b"cublasLt", "libcublasLt.so", "nvidia-cublas"),
    Family(b"cublas", "libcublas.so", "nvidia-cublas"),
    Family(b"cusparseLt", "libcusparseLt.so", "nvidia-cusparselt"),
    Family(b"cusparse", "libcusparse.so", "nvidia-cusparse"),
    Family(b"cusolverMg", "libcusolverMg.so", "nvidia-cusolver"),
    Family(b"cusolver", "libcusolver.so", "nvidia-cusolver"),
    Family(b"cudnn", "libcudnn.so", "nvidia-cudnn"),
    Family(b"nccl", "libnccl.so", "nvidia-nccl"),
    Family(b"cufft", "libcufft.so", "nvidia-cufft"),
    Family(b"curand", "libcurand.so", "nvidia-curand"),
    Family(b"nvrtc", "libnvrtc.so", "nvidia-cuda-nvrtc"),
    Family(b"__nvJitLink", "libnvJitLink.so", "nvidia-nvjitlink"),
    Family(b"nvJitLink", "libnvJitLink.so", "nvidia-nvjitlink"),
    Family(b"nvshmem", "libnvshmem_host.so", "nvidia-nvshmem"),
    Family(b"cuFile", "libcufile.so", "nvidia-cufile"),
    Family(b"cupti", "libcupti.so", "nvidia-cuda-cupti"),
    Family(b"cuda", "libcudart.so", "nvidia-cuda-runtime"),
)
"""The longer of two beginnings stands first. Read from the symbol tables of the wheels that torch 2.15.0 pins."""

SHOWN = 8
"""A library of another release may lack hundreds; these many tell."""


def gaps(system: System, closure: Closure, pins: Pins) -> Iterator[SymbolGap]:
    """What is asked of each library and not there: functions, and symbol versions.

    Libraries that are those of the very packages which torch was built for are left out: there is nothing to find,
    and reading what torch asks of them all would take as long as the rest of `check`.
    """
    givers = {
        family: found
        for family in FAMILIES
        if (found := _giver(closure, family.library)) and not pins.trusts(system, str(found.path))
    }
    asked = _asked(system, closure, givers)
    for giver in {found.soname: found for found in givers.values()}.values():
        wanted = {path: names for (path, soname), names in asked.items() if soname == giver.soname}
        every = {name for names in wanted.values() for name in names}
        lacking = _lacking(system, closure, giver, every) if every else set()
        package = next(f.package for f, found in givers.items() if found.soname == giver.soname)
        for path, names in wanted.items():
            if missing := sorted(lacking & set(names)):
                yield _gap(giver, package, path, missing)
    yield from _versions(system, closure, pins)


def _giver(closure: Closure, name: str) -> Loaded | None:
    return next((i for s, i in closure.libraries.items() if s.startswith(name) and i.path), None)


def _asked(
    system: System, closure: Closure, givers: Mapping[Family, Loaded]
) -> dict[tuple[str, str], list[str]]:
    """Path of a library and soname of the one that it asks -> names."""
    found: dict[tuple[str, str], list[str]] = {}
    for item in closure.libraries.values():
        if item.path is None or item.via in ("cache", "default"):
            continue
        needed = closure.needed.get(item.path, ())
        prefixes = tuple(f.prefix for f, giver in givers.items() if giver.soname in needed)
        asked = functools.partial(SymbolTable.asked, prefixes=prefixes)
        for name in _ask(system, item.path, asked) or () if prefixes else ():
            giver = next(g for f, g in givers.items() if name.encode().startswith(f.prefix))
            if giver.soname in needed:
                found.setdefault((item.path, giver.soname), []).append(name)
    return found


def _lacking(system: System, closure: Closure, giver: Loaded, names: Collection[str]) -> set[str]:
    """Which names neither a library has nor any other that is loaded: all of them are searched."""
    others = [i.path for i in closure.libraries.values() if i.path and i.path != giver.path]
    left = set(names)
    for path in (str(giver.path), *others):
        if not left:
            break
        lacking = _ask(system, path, functools.partial(SymbolTable.lacks, names=left))
        if lacking is None and path == giver.path:
            return set()
        left = left if lacking is None else lacking
    return left


def _ask(system: System, path: str, question: Callable[[SymbolTable], T]) -> T | None:
    """What the symbols of a library answer; None for one that tells nothing."""
    try:
        with system.opened(path) as view:
            table = SymbolTable(Elf(view))
            return question(table) if table.readable else None
    except (Unknown, ElfError):
        return None


def _versions(system: System, closure: Closure, pins: Pins) -> Iterator[SymbolGap]:
    """Versions that are asked of a library which defines others (`version ZLIB_1.2.9 not found`)."""
    for soname, asked in closure.versions.items():
        item = closure.libraries.get(soname)
        if item is None or item.path is None or soname.startswith(BASE_LIBRARIES):
            continue
        if pins.trusts(system, item.path):
            continue
        defined = _ask(system, item.path, SymbolTable.versions)
        if defined and (missing := sorted(asked - defined)):
            package = next((f.package for f in FAMILIES if soname.startswith(f.library)), "")
            yield _gap(item, package, item.needed_by, missing)


def _gap(giver: Loaded, package: str, asker: str, names: Sequence[str]) -> SymbolGap:
    return SymbolGap(
        library=str(giver.path),
        package=package,
        needed_by=asker.rsplit("/", 1)[-1],
        names=tuple(names[:SHOWN]),
        via=giver.via,
    )

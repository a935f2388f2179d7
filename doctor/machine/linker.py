"""Finds shared libraries as the Linux loader would, without loading anything.

Order (ld.so(8)): DT_RPATH of the asking library and of those that asked for it, unless it has a
DT_RUNPATH; LD_LIBRARY_PATH; DT_RUNPATH; the loader's cache; the default folders. A library whose
soname was already loaded is taken as it is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from doctor.errors import Unknown
from doctor.machine.elf import Dynamic, Elf, ElfError
from doctor.machine.system import System

CACHE_MAGIC = b"glibc-ld.so.cache1.1"
CACHE_HEADER = 48
CACHE_ENTRY = struct.Struct("<iIIIQ")

DEFAULT_FOLDERS = (
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
)

BASE_LIBRARIES = ("libc.so", "libm.so", "libdl.so", "librt.so", "libpthread.so", "libutil.so",
                  "libstdc++.so", "libgcc_s.so", "ld-linux", "ld64.so", "linux-vdso")  # fmt: skip
"""Parts of the system itself: missing below a root they are unknown, on a live machine impossible."""


Chain = tuple[tuple[str, tuple[str, ...]], ...]
"""Path and DT_RPATH of those above a library: the program, what it opened, and so on down."""


@dataclass(frozen=True)
class Loaded:
    """A library of the closure: where it lies, by which rule, and who asked first."""

    soname: str
    path: str | None
    via: str
    needed_by: str


@dataclass
class Closure:
    """All that loading some libraries brings in."""

    libraries: dict[str, Loaded] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Path -> why it could not be read."""
    needed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Path -> sonames that it asks for."""
    versions: dict[str, set[str]] = field(default_factory=dict)
    """Library -> symbol versions asked of it by libraries that are no part of the system."""

    def missing(self) -> list[Loaded]:
        """Libraries that would not be found, those of the base system apart."""
        return [
            item
            for item in self.libraries.values()
            if item.path is None and not item.soname.startswith(BASE_LIBRARIES)
        ]


class Linker:
    """The loader of one machine; what it learns of folders and files is kept.

    Args:
        system: the machine.
        preload: soname -> path of libraries that a program loads by hand before others ask for
            them (torch does so with those of the nvidia packages).
        program: path of the program that loads, whose DT_RPATH counts for whatever it opens: conda's
            Python has one.
    """

    def __init__(
        self,
        system: System,
        preload: Mapping[str, str] | None = None,
        program: str | None = None,
    ) -> None:
        self.system = system
        self.preload = dict(preload or {})
        self.program = program
        self.library_path = system.list_variable("LD_LIBRARY_PATH")
        self._cache: dict[str, list[str]] | None = None
        self._names: dict[str, frozenset[str]] = {}
        self._files: dict[str, tuple[str, int, Dynamic] | None] = {}
        self._reasons: dict[str, str] = {}

    def closure(self, paths: Iterable[str], bundled: Iterable[str] = ()) -> Closure:
        """Load some libraries and all they need, breadth first, as the loader does.

        Args:
            paths: libraries that are opened by path.
            bundled: folders whose libraries a program has loaded by then.
        """
        result = Closure()
        first = self._program_chain()
        queue: list[tuple[str, Chain]] = []
        for path in paths:
            entry = self._read(path)
            name = (entry[2].soname if entry else None) or path.rsplit("/", 1)[-1]
            result.libraries[name] = Loaded(name, path, "path", "")
            queue.append((path, first))
        extra = tuple(bundled)
        system_paths: set[str] = set()
        while queue:
            path, ancestors = queue.pop(0)
            entry = self._read(path)
            if entry is None:
                result.unreadable[path] = self._reasons[path]
                continue
            machine, bits, dynamic = entry
            result.needed[path] = dynamic.needed
            if path not in system_paths:
                for library, version in dynamic.versions:
                    result.versions.setdefault(library, set()).add(version)
            # a RUNPATH silences its own library's RPATH and, for its own needs, all those above
            chain = (*ancestors, (path, () if dynamic.runpath else dynamic.rpath))
            for soname in dynamic.needed:
                if soname in result.libraries:
                    continue
                found, via = self._search(soname, path, chain, dynamic, (machine, bits), extra)
                result.libraries[soname] = Loaded(soname, found, via, path)
                if found is not None:
                    queue.append((found, chain))
                    if via in ("cache", "default"):
                        system_paths.add(found)
        return result

    def _program_chain(self) -> Chain:
        """The program's search path; it is real, since the kernel follows links to it."""
        if self.program is None:
            return ()
        path = self.system.real(self.program)
        entry = self._read(path)
        if entry is not None and entry[2].rpath and not entry[2].runpath:
            return ((path, entry[2].rpath),)
        # below a root it may be a stand-in; conda builds its Python with this RPATH
        prefix = path.rsplit("/bin/", 1)[0]
        if entry is None and self.system.is_dir(f"{prefix}/conda-meta"):
            return ((path, ("$ORIGIN/../lib",)),)
        return ()

    def open_by_name(self, closure: Closure, asker: Loaded, soname: str) -> tuple[str, str] | None:
        """What a loaded library gets when it opens another by its name: path, and the rule that found it."""
        chain: list[tuple[str, tuple[str, ...]]] = []
        above: Loaded | None = asker
        by_path = {item.path: item for item in closure.libraries.values() if item.path}
        while above is not None and above.path is not None and len(chain) < len(by_path) + 1:
            entry = self._read(above.path)
            dynamic = entry[2] if entry else Dynamic()
            chain.insert(0, (above.path, () if dynamic.runpath else dynamic.rpath))
            above = by_path.get(above.needed_by)
        entry = self._read(str(asker.path))
        if entry is None:
            return None
        whole = (*self._program_chain(), *chain)
        machine, bits, dynamic = entry
        path, via = self._search(soname, str(asker.path), whole, dynamic, (machine, bits), ())
        return None if path is None else (path, via)

    def find(self, soname: str) -> str | None:
        """Where a program without search paths of its own would get a library from."""
        for folder in self.library_path:
            if self.has(folder, soname):
                return f"{folder.rstrip('/')}/{soname}"
        places = [*self._cached(soname), *(f"{f}/{soname}" for f in DEFAULT_FOLDERS)]
        return next((path for path in places if self.system.exists(path)), None)

    def _search(
        self,
        soname: str,
        asker: str,
        chain: Chain,
        dynamic: Dynamic,
        kind: tuple[str, int],
        bundled: tuple[str, ...],
    ) -> tuple[str | None, str]:
        """Path of a library and the rule that found it.

        The path stays as it was searched: $ORIGIN is where a library was found, not where a link
        in that place leads.
        """
        if "/" in soname:
            return (soname, "path") if self.system.exists(soname) else (None, "not found")
        above = () if dynamic.runpath else reversed(chain)
        rules = [("rpath", _expand(paths, path)) for path, paths in above]
        rules.append(("LD_LIBRARY_PATH", self.library_path))
        rules.append(("runpath", _expand(dynamic.runpath, asker)))
        for via, folders in rules:
            for folder in folders:
                path = f"{folder.rstrip('/')}/{soname}"
                if self.has(folder, soname) and self._fits(path, kind):
                    return path, via
        for path in self._cached(soname):
            if self._fits(path, kind):
                return path, "cache"
        for via, folders in (("default", list(DEFAULT_FOLDERS)), ("bundled", list(bundled))):
            for folder in folders:
                if self.has(folder, soname) and self._fits(f"{folder}/{soname}", kind):
                    return f"{folder}/{soname}", via
        if soname in self.preload:
            return self.preload[soname], "preload"
        return None, "not found"

    def has(self, folder: str, name: str) -> bool:
        """Whether a folder has a file of that name; folders are listed once."""
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(self.system.names(folder))
            except Unknown:
                self._names[folder] = frozenset()
        return name in self._names[folder]

    def _fits(self, path: str, kind: tuple[str, int]) -> bool:
        """The loader passes over files of another architecture; damaged ones it stumbles over."""
        entry = self._read(path)
        if entry is None:
            return self.system.exists(path)
        return (entry[0], entry[1]) == kind

    def _read(self, path: str) -> tuple[str, int, Dynamic] | None:
        if path not in self._files:
            self._files[path] = None
            try:
                with self.system.opened(path) as view:
                    elf = Elf(view)
                    self._files[path] = (elf.machine, elf.bits, elf.dynamic())
            except (Unknown, ElfError) as error:
                self._reasons[path] = str(error)
        return self._files[path]

    def _cached(self, soname: str) -> list[str]:
        if self._cache is None:
            try:
                self._cache = self._read_cache()
            except Unknown:
                self._cache = {}
        return self._cache.get(soname, [])

    def _read_cache(self) -> dict[str, list[str]]:
        data = self.system.bytes("/etc/ld.so.cache")
        if data is not None:
            table = parse_cache(data)
            if table:
                return table
        return parse_ldconfig(self.system.output(["ldconfig", "-p"]))


def parse_cache(data: bytes) -> dict[str, list[str]]:
    """Soname -> paths from the bytes of /etc/ld.so.cache; empty where they are none."""
    start = data.find(CACHE_MAGIC)
    table: dict[str, list[str]] = {}
    if start < 0 or len(data) < start + CACHE_HEADER:
        return table
    (count,) = struct.unpack_from("<I", data, start + len(CACHE_MAGIC))
    for i in range(min(count, len(data) // CACHE_ENTRY.size)):
        at = start + CACHE_HEADER + i * CACHE_ENTRY.size
        if at + CACHE_ENTRY.size > len(data):
            break
        _, key, value, _, _ = CACHE_ENTRY.unpack_from(data, at)
        name, path = (_c_string(data, start + offset) for offset in (key, value))
        if path.startswith("/"):
            table.setdefault(name.rsplit("/", 1)[-1], []).append(path)
    return table


def parse_ldconfig(text: str) -> dict[str, list[str]]:
    """The same from what `ldconfig -p` prints."""
    table: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, arrow, path = line.strip().partition(" => ")
        if arrow and path.startswith("/"):
            table.setdefault(name.split(" ", 1)[0], []).append(path)
    return table


def _c_string(data: bytes, at: int) -> str:
    end = data.find(b"\0", at, at + 4096)
    return data[at:end].decode("utf-8", "replace") if end >= 0 else ""


def _expand(folders: Iterable[str], path: str) -> list[str]:
    """Search paths with $ORIGIN replaced by the folder of the library that names them."""
    origin = path.rsplit("/", 1)[0]
    return [f.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", origin) for f in folders]

"""A folder that is written to by the paths of the machine that it stands for."""

from __future__ import annotations

import shutil
from pathlib import Path

from machines.describe import Machine
from machines.elf import elf


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
            data = elf(name, arch=self.arch, defines=["GLIBCXX_3.4.32"])
            if path in self.linked:
                tree.link(path, self.linked[path])
                path = f"{path.rsplit('/', 1)[0]}/{self.linked[path]}"
            tree.file(path, data)
        lines = [f"\t{p.rsplit('/', 1)[-1]} (libc6) => {p}" for p in self.paths]
        text = f"{len(lines)} libs found in cache `/etc/ld.so.cache'\n" + "\n".join(lines)
        tree.program("/usr/sbin/ldconfig", f"cat <<'EOF'\n{text}\nEOF")


def bus(number: int) -> str:
    """Bus address of the nth device."""
    return f"0000:{0x11 + 8 * number:02x}:00.0"


def pci(tree: Tree, address: str, vendor: str, device: str, kind: str) -> None:
    """Write a device of the bus."""
    for name, value in (("vendor", f"0x{vendor}"), ("device", f"0x{device}"), ("class", kind)):
        tree.file(f"/sys/bus/pci/devices/{address}/{name}", f"{value}\n")

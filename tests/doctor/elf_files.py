"""Builds real shared libraries with the system's compiler, and fatbin sections byte by byte."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

needs_gcc = pytest.mark.skipif(
    not shutil.which("gcc") or not shutil.which("objcopy"), reason="no gcc to build libraries with"
)


class Watched(bytes):
    """Bytes that know how often and how much of them is read."""

    looks = 0
    read = 0

    def __getitem__(self, where: Any) -> Any:
        found = super().__getitem__(where)
        self.looks += 1
        self.read += len(found) if isinstance(where, slice) else 1
        return found


def build_library(
    path: Path,
    *,
    needs: Sequence[Path | str] = (),
    rpath: str | None = None,
    runpath: str | None = None,
    soname: str | None = "",
    code: str = "int value(void) { return 1; }\n",
    flags: Sequence[str] = (),
) -> Path:
    """A shared library; one that it needs is linked by its file, so its soname is what is noted.

    Args:
        soname: None leaves it out, empty takes the file's name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-shared", "-fPIC", "-Os", "-nostdlib", "-x", "c", "-", "-o", str(path)]
    command += ["-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined", "-Wl,--build-id=none"]
    if soname is not None:
        command.append(f"-Wl,-soname,{soname or path.name}")
    for tags, value in (("disable", rpath), ("enable", runpath)):
        if value is not None:
            command += [f"-Wl,--{tags}-new-dtags", f"-Wl,-rpath,{value}"]
    command += ["-x", "none", *(str(n) for n in needs), *flags]
    subprocess.run(command, input=code, text=True, check=True, capture_output=True)
    return path


def library_bytes(folder: Path, **options: object) -> bytes:
    """The bytes of a small library."""
    return build_library(folder / "libsmall.so", **options).read_bytes()  # type: ignore[arg-type]


def with_section(library: Path, name: str, content: bytes) -> Path:
    """The same library with one section more."""
    piece = library.with_suffix(".section")
    piece.write_bytes(content)
    made = library.with_name(f"with{name.replace('.', '-')}-{library.name}")
    command = ["objcopy", "--add-section", f"{name}={piece}", str(library), str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made


def patched(data: bytes, offset: int, kind: str, value: int) -> bytes:
    """The same bytes with one number replaced."""
    changed = bytearray(data)
    struct.pack_into(kind, changed, offset, value)
    return bytes(changed)


MACHINE_AT = 18
"""Offset of e_machine."""


# --- fatbin ----------------------------------------------------------------------------------

PTX, SASS = 1, 2
ARCH_SPECIFIC = 1 << 20


@dataclass(frozen=True)
class Code:
    """An entry: architecture (75 is 7.5), kind, flags, and how many bytes of code it has."""

    arch: int
    kind: int = SASS
    flags: int = 0
    size: int = 32

    @property
    def key(self) -> tuple[str, int]:
        """What the reader should count it as."""
        suffix = "a" if self.flags & ARCH_SPECIFIC else ""
        return f"{self.arch // 10}.{self.arch % 10}{suffix}", self.kind


def entry(code: Code) -> bytes:
    """One entry: a header of 64 bytes and a body."""
    head = bytearray(64)
    struct.pack_into("<HHIQ", head, 0, code.kind, 0x0101, 64, code.size)
    struct.pack_into("<I", head, 28, code.arch)
    struct.pack_into("<Q", head, 40, code.flags)
    return bytes(head) + b"\xc0" * code.size


def container(codes: Iterable[Code]) -> bytes:
    """One container with its header of 16 bytes."""
    body = b"".join(entry(code) for code in codes)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def fatbin(*containers: Iterable[Code], padding: int = 8) -> bytes:
    """A section: containers with zeros between them."""
    return b"".join(container(codes) + b"\0" * padding for codes in containers)


def elf_around(sections: Sequence[tuple[str, bytes]]) -> bytes:
    """The smallest 64-bit ELF file that holds some sections; needs no compiler."""
    names = [("", b""), *sections, (".shstrtab", b"")]
    strings = b"\0" + b"".join(name.encode() + b"\0" for name, _ in names[1:])
    names[-1] = (".shstrtab", strings)
    body, rows, at, name_at = b"", [], 64, 0
    for i, (name, content) in enumerate(names):
        kind = 0 if i == 0 else 3 if name == ".shstrtab" else 1
        row = (name_at, kind, 0, 0, at if i else 0, len(content), 0, 0, 1, 0)
        rows.append(struct.pack("<IIQQQQIIQQ", *row))
        body += content
        at += len(content)
        name_at += len(name) + 1
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, at, 0, 64, 56, 0, 64, len(rows), len(rows) - 1
    )
    return head + body + b"".join(rows)

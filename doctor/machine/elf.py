"""Reads what a loader reads of an ELF file: sections, needed libraries, search paths, versions.

It reads only the pages it needs, so that a library of 500 MB costs well under a millisecond; a
general reader takes thirty times as long (tests/bench/bench_elf.py compares the two). Format:
System V ABI, "Object Files", and the Linux Standard Base for symbol versions.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from doctor.machine.reader import FileReader

Buffer = bytes | FileReader

PT_LOAD, PT_DYNAMIC = 1, 2
DT_NEEDED, DT_STRTAB, DT_STRSZ, DT_SYMTAB, DT_SONAME, DT_RPATH, DT_RUNPATH = 1, 5, 10, 6, 14, 15, 29
DT_VERNEED, DT_VERNEEDNUM = 0x6FFFFFFE, 0x6FFFFFFF
SHN_UNDEF = 0
SHT_DYNSYM = 11

MACHINES = {3: "i686", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64", 21: "ppc64le"}
"""e_machine -> uname's word for it."""

SHORT_STRING, STRING_LIMIT = 1 << 7, 1 << 12
TABLE_LIMIT = 1 << 16
"""More headers, needed libraries or versions than this are damage, not data."""


class ElfError(ValueError):
    """Not an ELF file, or one that is cut short or damaged; the text says where."""


class Section(NamedTuple):
    """Name, kind, place and size of a section, in bytes of the file."""

    name: str
    kind: int
    offset: int
    size: int
    entry_size: int
    link: int


@dataclass(frozen=True)
class Dynamic:
    """What the dynamic section asks of the loader."""

    needed: tuple[str, ...] = ()
    soname: str | None = None
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    """(library, symbol version) pairs that it needs: ("libc.so.6", "GLIBC_2.28")."""


class Elf:
    """An ELF file in a buffer.

    Raises:
        ElfError: from the constructor and from every method, for anything that does not hold.
    """

    def __init__(self, data: Buffer) -> None:
        self.data = data
        if len(data) < 64 or data[:4] != b"\x7fELF":
            raise ElfError("no ELF header")
        width, order = data[4:6]
        if width not in (1, 2) or order not in (1, 2):
            raise ElfError("unknown ELF class or byte order")
        self.bits = 64 if width == 2 else 32
        self.order = "<" if order == 1 else ">"
        wide = self.bits == 64
        kind = "HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"
        head = self._unpack(kind, 16)
        self.machine = MACHINES.get(head[1], f"machine {head[1]}")
        self._segments_at, self._sections_at = head[4], head[5]
        self._segment_size, self._segment_count = head[8], head[9]
        self._section_size, self._section_count, self._names_index = head[10:13]
        self._sections: tuple[Section, ...] | None = None

    def _unpack(self, kind: str, offset: int) -> tuple[int, ...]:
        layout = self.order + kind
        try:
            return struct.unpack(layout, self.data[offset : offset + struct.calcsize(layout)])
        except struct.error as error:
            raise ElfError(f"cut short at byte {offset}") from error

    def _string(self, offset: int, end: int) -> str:
        if not 0 <= offset < len(self.data):
            raise ElfError(f"a string lies beyond the file, at byte {offset}")
        for size in (SHORT_STRING, STRING_LIMIT):
            piece = self.data[offset : min(end, offset + size)]
            text, terminator, _ = piece.partition(b"\0")
            if terminator:
                return text.decode("utf-8", "replace")
        raise ElfError(f"unterminated string at byte {offset}")

    def sections(self) -> tuple[Section, ...]:
        """All sections; empty for a file that was stripped of their table."""
        if self._sections is None:
            self._sections = self._read_sections()
        return self._sections

    def _read_sections(self) -> tuple[Section, ...]:
        if self._sections_at == 0 or self._section_count == 0:
            return ()
        kind = "IIQQQQIIQQ" if self.bits == 64 else "IIIIIIIIII"
        size = struct.calcsize(self.order + kind)
        if self._section_size < size:
            raise ElfError("section headers are too small")
        rows = [
            self._unpack(kind, self._sections_at + i * self._section_size)
            for i in range(self._section_count)
        ]
        if self._names_index >= len(rows):
            raise ElfError("no table of section names")
        names_at, names_size = rows[self._names_index][4:6]
        return tuple(
            Section(
                name=self._string(names_at + row[0], names_at + names_size) if row[1] else "",
                kind=row[1],
                offset=row[4],
                size=row[5],
                entry_size=row[9],
                link=row[6],
            )
            for row in rows
        )

    def section(self, name: str) -> Section | None:
        """The first section of that name that lies within the file."""
        for section in self.sections():
            if section.name == name:
                if section.offset + section.size > len(self.data):
                    raise ElfError(f"section {name} ends beyond the file")
                return section
        return None

    def find(self, needle: bytes, section_name: str = ".rodata") -> bool:
        """Whether bytes occur in a section; in the whole file where it has no section table."""
        section = self.section(section_name)
        if section is None:
            return not self.sections() and self.data.find(needle) >= 0
        return self.data.find(needle, section.offset, section.offset + section.size) >= 0

    def _segments(self) -> Iterator[tuple[int, int, int, int]]:
        """Kind, place in the file, address and size in the file of each segment."""
        if self._segment_count > TABLE_LIMIT:
            raise ElfError("too many segments")
        for i in range(self._segment_count):
            at = self._segments_at + i * self._segment_size
            if self.bits == 64:
                kind, _, offset, address, _, size = self._unpack("IIQQQQ", at)
            else:
                kind, offset, address, _, size = self._unpack("IIIII", at)
            yield kind, offset, address, size

    def dynamic(self) -> Dynamic:
        """What the loader is asked for; all empty for a static file."""
        segments = list(self._segments())
        place = next(((o, s) for kind, o, _, s in segments if kind == PT_DYNAMIC), None)
        if place is None:
            return Dynamic()
        loads = [(o, a, s) for kind, o, a, s in segments if kind == PT_LOAD]
        entries = list(self._dynamic_entries(*place))
        values = dict(reversed(entries))
        if DT_STRTAB not in values:
            raise ElfError("dynamic section without strings")
        strings = _in_file(values[DT_STRTAB], loads)
        end = strings + values.get(DT_STRSZ, len(self.data))

        def paths(tag: int) -> tuple[str, ...]:
            if tag not in values:
                return ()
            return tuple(p for p in self._string(strings + values[tag], end).split(":") if p)

        soname = values.get(DT_SONAME)
        return Dynamic(
            needed=tuple(
                self._string(strings + value, end) for tag, value in entries if tag == DT_NEEDED
            ),
            soname=None if soname is None else self._string(strings + soname, end),
            rpath=paths(DT_RPATH),
            runpath=paths(DT_RUNPATH),
            versions=tuple(self._versions(values, loads, strings, end)),
        )

    def _dynamic_entries(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        kind, step = ("qQ", 16) if self.bits == 64 else ("iI", 8)
        if size // step > TABLE_LIMIT:
            raise ElfError("dynamic section too long")
        for at in range(offset, offset + size - step + 1, step):
            tag, value = self._unpack(kind, at)
            if tag == 0:
                return
            yield tag, value

    def _versions(
        self, values: dict[int, int], loads: list[tuple[int, int, int]], strings: int, end: int
    ) -> Iterator[tuple[str, str]]:
        if DT_VERNEED not in values:
            return
        at = _in_file(values[DT_VERNEED], loads)
        left = TABLE_LIMIT
        for _ in range(min(values.get(DT_VERNEEDNUM, 0), TABLE_LIMIT)):
            _, count, file, first, following = self._unpack("HHIII", at)
            library, entry = self._string(strings + file, end), at + first
            left -= count
            if left < 0:
                raise ElfError("too many symbol versions")
            for _ in range(count):
                _, _, _, name, step = self._unpack("IHHII", entry)
                yield library, self._string(strings + name, end)
                if step == 0:
                    break
                entry += step
            if following == 0:
                return
            at += following


def _in_file(address: int, loads: list[tuple[int, int, int]]) -> int:
    """Place in the file of a loaded address."""
    for offset, start, size in loads:
        if start <= address < start + size:
            return address - start + offset
    raise ElfError(f"address {address:#x} lies in no segment")

"""Reads which GPU architectures a library has compiled code for, from its fatbin section.

NVIDIA publishes no specification. A `.nv_fatbin` section is a run of containers (magic
0xBA55ED50, header size, body size) with zeros between them; a container holds entries, each with
kind (1 PTX, 2 machine code), header size, body size, architecture (75 for 7.5) and flags. Layout
and flag bits were settled by comparing with `cuobjdump --list-elf` on torch 2.15.0+cu132 (CUDA
12.9's cuobjdump): 476 entries of sm_100 beside 59 of sm_100a, told apart by bit 20.

Only headers are read: hopping from one to the next takes 6 ms for a library of 500 MB.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass

from doctor.machine.elf import Buffer, Elf

MAGIC = 0xBA55ED50
MAGIC_BYTES = struct.pack("<I", MAGIC)
CONTAINER = struct.Struct("<IHHQ")
"""Magic, version, header size, body size."""
ENTRY = struct.Struct("<HHIQ12xI8xQ")
"""Kind, version, header size, body size, architecture, flags."""
PTX, SASS = 1, 2
ARCH_SPECIFIC = 1 << 20
"""Set for sm_90a, sm_100a, …: code that runs on exactly that architecture."""

SECTIONS = (".nv_fatbin", "__nv_relfatbin")
"""Code that a driver loads; else, in a library without any, code still to be linked."""


@dataclass(frozen=True)
class Fatbin:
    """Code found in a library.

    Attributes:
        counts: (architecture, kind) -> number of entries; `9.0a` for architecture-specific code.
        damaged: whether bytes were met that are no fatbin.
    """

    counts: Counter[tuple[str, int]]
    damaged: bool


Raw = Counter[tuple[int, int, int]]
"""(architecture number, architecture-specific bit, kind) -> entries; names are made at the end."""


def read(elf: Elf) -> Fatbin:
    """Count a library's entries by architecture and kind; all empty where it has no GPU code.

    Raises:
        ElfError: the file around the section is damaged.
    """
    damaged = present = False
    for name in SECTIONS:
        raw: Raw = Counter()
        for section in elf.sections():
            if section.name == name and section.size:
                present = True
                end = min(section.offset + section.size, len(elf.data))
                cut = end < section.offset + section.size
                damaged |= not _count_containers(elf.data, section.offset, end, raw) or cut
        if raw:
            return Fatbin(_named(raw), damaged)
    return Fatbin(Counter(), present)


def _named(raw: Raw) -> Counter[tuple[str, int]]:
    counts: Counter[tuple[str, int]] = Counter()
    for (number, specific, kind), entries in raw.items():
        counts[f"{number // 10}.{number % 10}{'a' if specific else ''}", kind] += entries
    return counts


def _count_containers(data: Buffer, at: int, end: int, counts: Raw) -> bool:
    """Count what a section holds; False where anything but zeros lies between containers."""
    whole = True
    while at + CONTAINER.size <= end:
        magic, _, header, body = CONTAINER.unpack(data[at : at + CONTAINER.size])
        if magic != MAGIC or header < CONTAINER.size:
            following = data.find(MAGIC_BYTES, at + 1, end)
            stop = following if following >= 0 else end
            whole = whole and not any(data[at:stop])
            if following < 0:
                return whole
            at = following
            continue
        start, at = at + header, at + header + body
        whole = _count_entries(data, start, min(at, end), counts) and at <= end and whole
    return whole


def _count_entries(data: Buffer, at: int, end: int, counts: Raw) -> bool:
    """Count the entries of one container; False where they do not fill it."""
    size, unpack = ENTRY.size, ENTRY.unpack
    while at + size <= end:
        kind, _, header, body, number, flags = unpack(data[at : at + size])
        if kind not in (PTX, SASS) or header < size or at + header + body > end:
            return False
        if not 10 <= number < 1000:
            return False
        counts[number, flags & ARCH_SPECIFIC, kind] += 1
        at += header + body
    return True

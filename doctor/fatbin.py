"""Reads which GPU architectures a library has compiled code for, from its fatbin section.

NVIDIA publishes no specification. A `.nv_fatbin` section is a run of containers (magic
0xBA55ED50, header size, body size); a container holds entries, each with kind (1 PTX, 2 machine
code), header size, body size, architecture (75 for 7.5) and flags. Layout and flag bits were
settled by comparing with `cuobjdump --list-elf` on torch 2.15.0+cu132 (CUDA 12.9's cuobjdump):
476 entries of sm_100 beside 59 of sm_100a, told apart by bit 20.

Only headers are read: hopping from one to the next takes 10 ms for a library of 500 MB.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from doctor.elf import Buffer, Elf

MAGIC = 0xBA55ED50
MAGIC_BYTES = struct.pack("<I", MAGIC)
CONTAINER = struct.Struct("<IHHQ")
ENTRY = struct.Struct("<HHIQ")
ENTRY_ARCH = struct.Struct("<I")
ENTRY_FLAGS = struct.Struct("<Q")
ARCH_AT, FLAGS_AT, ENTRY_MINIMUM = 28, 40, 48
PTX, SASS = 1, 2
ARCH_SPECIFIC = 1 << 20
"""Set for sm_90a, sm_100a, …: code that runs on exactly that architecture."""

SECTIONS = (".nv_fatbin", "__nv_relfatbin")


@dataclass(frozen=True)
class Fatbin:
    """Code found in a library.

    Attributes:
        counts: (architecture, kind) -> number of entries; `9.0a` for architecture-specific code.
        damaged: whether bytes were met that are no fatbin.
    """

    counts: Counter[tuple[str, int]]
    damaged: bool


def read(elf: Elf) -> Fatbin:
    """Count a library's entries by architecture and kind; all empty where it has no GPU code.

    Raises:
        ElfError: the file around the section is damaged.
    """
    counts: Counter[tuple[str, int]] = Counter()
    damaged = False
    for section in elf.sections():
        if section.name in SECTIONS and section.size:
            end = min(section.offset + section.size, len(elf.data))
            damaged |= end < section.offset + section.size
            for start, stop in _containers(elf.data, section.offset, end):
                if stop > end:
                    damaged, stop = True, end
                damaged |= not _count_entries(elf.data, start, stop, counts)
            damaged |= not counts
    return Fatbin(counts, damaged)


def _containers(data: Buffer, at: int, end: int) -> Iterator[tuple[int, int]]:
    """Start and end of each container's body; skips to the next magic over anything else."""
    while at + CONTAINER.size <= end:
        magic, _, header, body = CONTAINER.unpack_from(data, at)
        if magic != MAGIC or header < CONTAINER.size:
            at = data.find(MAGIC_BYTES, at + 1, end)
            if at < 0:
                return
            continue
        yield at + header, at + header + body
        at += header + body


def _count_entries(data: Buffer, at: int, end: int, counts: Counter[tuple[str, int]]) -> bool:
    """Count the entries of one container; False where they do not fill it."""
    while at + ENTRY_MINIMUM <= end:
        kind, _, header, body = ENTRY.unpack_from(data, at)
        if kind not in (PTX, SASS) or header < ENTRY_MINIMUM or at + header + body > end:
            return False
        (number,) = ENTRY_ARCH.unpack_from(data, at + ARCH_AT)
        (flags,) = ENTRY_FLAGS.unpack_from(data, at + FLAGS_AT)
        if not 10 <= number < 1000:
            return False
        suffix = "a" if flags & ARCH_SPECIFIC else ""
        counts[f"{number // 10}.{number % 10}{suffix}", kind] += 1
        at += header + body
    return True

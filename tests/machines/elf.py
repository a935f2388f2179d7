"""Whole ELF files, byte by byte: what a loader reads of a library, and GPU code."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

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

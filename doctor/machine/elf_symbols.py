"""Names that an ELF library asks of others, and which of some names it has: its dynamic symbol table.

Undefined symbols stand before those that the GNU hash table leads to, so that asking reads a small part of a
large table; having is a look-up in the hash table, as the loader does it. Format: System V ABI, "Symbol Table";
the hash table as in glibc's elf/dl-lookup.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from doctor.machine.elf import SHN_UNDEF, SHT_DYNSYM, Elf, ElfError, Section

SHT_GNU_HASH, SHT_GNU_VERDEF = 0x6FFFFFF6, 0x6FFFFFFD
WEAK = 2
"""Binding of a symbol that may stay undefined."""

STRINGS_LIMIT = 1 << 27
CHAIN_LIMIT = 1 << 16


class SymbolTable:
    """The dynamic symbols of a 64-bit library.

    Raises:
        ElfError: from every method, for anything that does not hold.
    """

    def __init__(self, elf: Elf) -> None:
        self._elf = elf
        sections = elf.sections()
        self._table = next((s for s in sections if s.kind == SHT_DYNSYM), None)
        self._hash = next((s for s in sections if s.kind == SHT_GNU_HASH), None)
        self._verdef = next((s for s in sections if s.kind == SHT_GNU_VERDEF), None)
        linked = self._table.link if self._table else 0
        self._names = sections[linked] if 0 < linked < len(sections) else None
        self._scanned: set[bytes] | None = None

    @property
    def readable(self) -> bool:
        """Whether there is a table at all; one that was stripped away tells nothing."""
        return self._table is not None and self._names is not None and self._elf.bits == 64

    def asked(self, prefixes: tuple[bytes, ...]) -> list[str]:
        """Names that it asks of others and that begin so; those that may stay undefined are left out."""
        strings = self._strings()
        return [
            _name(strings, at).decode("utf-8", "replace")
            for at, binding, section in self._entries(self._first_hashed())
            if section == SHN_UNDEF and binding != WEAK and strings.startswith(prefixes, at)
        ]

    def lacks(self, names: Iterable[str]) -> set[str]:
        """Which of some names it does not define."""
        if self._hash is None:
            defined = self._scan()
            return {name for name in names if name.encode() not in defined}
        lookup = _Lookup(self._elf, self._hash, self._table, self._names)
        return {name for name in names if not lookup.has(name.encode())}

    def versions(self) -> set[str]:
        """Names of the symbol versions that it defines."""
        if self._verdef is None or self._names is None:
            return set()
        data = self._read(self._verdef)
        strings = self._strings()
        found: set[str] = set()
        at = 0
        for _ in range(CHAIN_LIMIT):
            if at + 20 > len(data):
                break
            *_, first, following = struct.unpack_from(f"{self._elf.order}HHHHIII", data, at)
            if at + first + 4 <= len(data):
                (name,) = struct.unpack_from(f"{self._elf.order}I", data, at + first)
                found.add(_name(strings, name).decode("utf-8", "replace"))
            if not following:
                break
            at += following
        return found

    def _read(self, section: Section) -> bytes:
        if section.size > STRINGS_LIMIT:
            raise ElfError(f"section {section.name} is too large")
        return bytes(self._elf.data[section.offset : section.offset + section.size])

    def _strings(self) -> bytes:
        return self._read(self._names) if self._names else b""

    def _first_hashed(self) -> int | None:
        """Number of the first symbol that the hash table leads to; those before it are undefined or local."""
        if self._hash is None:
            return None
        head = self._elf.data[self._hash.offset : self._hash.offset + 8]
        return int(struct.unpack(f"{self._elf.order}II", head)[1]) if len(head) == 8 else None

    def _entries(self, count: int | None) -> Iterator[tuple[int, int, int]]:
        """Place of its name, binding and section of each symbol, of the first `count` of them."""
        if self._table is None or not self.readable:
            return
        size = self._table.size if count is None else min(count * 24, self._table.size)
        data = self._elf.data[self._table.offset : self._table.offset + size]
        whole = len(data) - len(data) % 24  # the file may end within the table
        layout = f"{self._elf.order}IBBHQQ"
        for name, info, _, section, _, _ in struct.iter_unpack(layout, data[:whole]):
            yield name, info >> 4, section

    def _scan(self) -> set[bytes]:
        """All names that it defines, for a library without a hash table."""
        if self._scanned is None:
            strings = self._strings()
            self._scanned = {
                _name(strings, at) for at, _, section in self._entries(None) if section
            }
        return self._scanned


class _Lookup:
    """A GNU hash table."""

    def __init__(
        self, elf: Elf, section: Section, table: Section | None, names: Section | None
    ) -> None:
        if table is None or names is None or section.size > STRINGS_LIMIT:
            raise ElfError("a hash table without symbols")
        self._elf, self._table, self._names = elf, table, names
        data = elf.data[section.offset : section.offset + section.size]
        if len(data) < 16:
            raise ElfError("the hash table is cut short")
        self._buckets, self._first, bloom, _ = struct.unpack_from(f"{elf.order}IIII", data, 0)
        words = len(data) // 4
        numbers = struct.unpack_from(f"{elf.order}{words}I", data, 0)
        start = 4 + bloom * 2
        self._heads = numbers[start : start + self._buckets]
        self._chain = numbers[start + self._buckets :]
        if not self._buckets or len(self._heads) < self._buckets:
            raise ElfError("the hash table is cut short")

    def has(self, name: bytes) -> bool:
        """Whether a symbol of that name is defined."""
        value = 5381
        for byte in name:
            value = (value * 33 + byte) & 0xFFFFFFFF
        index = self._heads[value % self._buckets]
        while index >= self._first and index - self._first < len(self._chain):
            link = self._chain[index - self._first]
            if link | 1 == value | 1 and self._is_called(index, name):
                return True
            if link & 1:
                break
            index += 1
        return False

    def _is_called(self, index: int, name: bytes) -> bool:
        at = self._table.offset + index * 24
        head = self._elf.data[at : at + 8]
        if len(head) < 8:
            raise ElfError("the symbol table is cut short")
        place, _, _, section = struct.unpack(f"{self._elf.order}IBBH", head)
        start = self._names.offset + place
        return (
            section != SHN_UNDEF and self._elf.data[start : start + len(name) + 1] == name + b"\0"
        )


def _name(strings: bytes, at: int) -> bytes:
    end = strings.find(b"\0", at)
    return strings[at:end] if end >= 0 else strings[at:]

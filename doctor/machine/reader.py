"""Reads here and there in a large file, as if it were bytes.

A memory map would be the usual way, but hopping through a library of 500 MB by one costs four
times as much: each page touched brings in its neighbours, and all are torn down again at the end.
"""

from __future__ import annotations

import os

BLOCK = 1 << 12
"""Bytes read at once around a small piece: what is looked at next mostly lies behind it."""

CHUNK = 1 << 20
"""Bytes searched at once."""


class FileReader:
    """An open file that can be sliced and searched like bytes; only what is asked for is read."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._start = 0
        self._block = b""

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, where: slice) -> bytes:
        """The bytes between two offsets, fewer where the file ends before; steps are not known."""
        start, stop, _ = where.indices(self._size)
        base, block = self._start, self._block
        if base <= start and stop <= base + len(block):
            return block[start - base : stop - base] if start < stop else b""
        if stop <= start:
            return b""
        if stop - start > BLOCK:
            return self._read(start, stop - start)
        self._start, self._block = start, self._read(start, BLOCK)
        return self._block[: stop - start]

    def _read(self, start: int, size: int) -> bytes:
        """All of it: one call returns at most 2 GiB, and less where a signal comes in between."""
        found = os.pread(self._descriptor, size, start)
        while len(found) < size and start + len(found) < self._size:
            more = os.pread(self._descriptor, size - len(found), start + len(found))
            if not more:
                break
            found += more
        return found

    def find(self, needle: bytes, start: int = 0, stop: int | None = None) -> int:
        """Offset of the first occurrence that lies between two offsets; -1 without any."""
        start, stop, _ = slice(start, stop).indices(self._size)
        while start + len(needle) <= stop:
            piece = self[start : min(start + CHUNK, stop)]
            at = piece.find(needle)
            if at >= 0:
                return start + at
            if len(piece) < len(needle):
                return -1
            # the next piece begins before the end of this one, for what lies across
            start += len(piece) - len(needle) + 1
        return -1

"""Files that no program of ours wrote: endless, huge, damaged, of another kind."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from doctor.errors import DoctorError

HUGE = 10 << 30
"""Bytes of a file with a hole: nobody has that much memory to spare here, and it takes no disk."""

DIGITS = "9" * 5000


def _linked(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(HUGE)


def _socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)  # its whole path may be too long for an address
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def _holding(data: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(data)

    return make


PLACES: Mapping[str, Callable[[Path], None]] = {
    "a link to /dev/zero": _linked,
    "a pipe": lambda path: os.mkfifo(path),
    "a folder": lambda path: path.mkdir(),
    "a socket": _socket,
    "10 GB": _sparse,
}
"""What is no file to read as a whole."""

CONTENTS: Mapping[str, Callable[[Path], None]] = {
    name: _holding(data)
    for name, data in {
        "nothing": b"",
        "zeros": b"\0" * 5000,
        "no UTF-8": b"\xff\xfe\x80" * 500,
        "a line without end": b"x" * (1 << 20),
        "nested lists": b"[" * 200_000,
        "nested objects": b'{"a":' * 100_000,
        "nested tables": b"a = " + b"[" * 50_000,
        "a number without end": b'{"schema": ' + b"9" * 5000 + b"}",
        "no numbers": b'{"schema": 1, "time": NaN, "complete": Infinity}',
        "a key twice": b'{"schema": 1, "schema": 1}',
        "escapes": b"\x1b]0;x\x07\x9b2J\xe2\x80\xae\r\n\x08",
        "a version without end": f"Name: x\nVersion: {DIGITS}\nRequires-Dist: x=={DIGITS}\n".encode(),
        "a list of files": f"../../../../etc/passwd,,{DIGITS}\n/etc/passwd,,1\n\0,,\n.,,\n".encode(),
        "an object": b"{}",
        "a list": b"[]",
        "null": b"null",
    }.items()
}
"""What a file may hold instead."""

KINDS = {**PLACES, **CONTENTS}


def read_or_told(read: Callable[[], object]) -> None:
    """What reads such a file goes on, or says why not in one sentence that a terminal can take.

    Raises:
        AssertionError: it said something else.
    """
    try:
        read()
    except DoctorError as error:
        said = str(error)
        assert said.endswith(".") and said.isprintable() and len(said) < 500, said


def same(path: Path, kind: str, other: Path) -> bool:
    """Whether a hostile file is still as it was made; `other` is a free name beside it."""
    if kind in PLACES:
        return path.is_symlink() or path.exists()
    KINDS[kind](other)
    kept = path.read_bytes() == other.read_bytes()
    other.unlink()
    return kept

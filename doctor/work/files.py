"""Small files that matter: the old one or the new one is there after a kill, never half of one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from doctor.errors import DoctorError, Unknown
from doctor.text.bounded import parse_json, read_bounded
from doctor.text.toml import tomllib

LIMIT = 64 << 20
"""Bytes of a file that is read as a whole; what we write is some thousand times smaller."""


def write(path: Path, text: str) -> None:
    """Put a text under a name once it is whole and on the disk; folders are made as needed.

    Raises:
        DoctorError: no space, no permission.
    """
    # names of files that are no UTF-8 reach us as lone surrogates
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_bytes(path: Path, data: bytes) -> None:
    """The same for bytes; mode, owner and attributes of a file that is there stay.

    Raises:
        DoctorError: no space, no permission.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _like(path, partial)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise cannot_write(path, error) from error
    with contextlib.suppress(OSError):
        flush_folder(path.parent)


def _like(path: Path, partial: Path) -> None:
    """Give a new file what the old one of its name has, but for its times."""
    with contextlib.suppress(OSError):
        found = path.stat()
        shutil.copystat(path, partial)
        os.utime(partial)
        os.chown(partial, found.st_uid, found.st_gid)


def flush_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut.

    Raises:
        OSError: this file system cannot.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Take a file away, if it is there.

    Raises:
        DoctorError: no permission.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> DoctorError:
    """The sentence for a file or folder that cannot be written."""
    return DoctorError(
        f"{path} cannot be written ({error.strerror or error}); free space or get write permission, or work in a "
        "checkout and an environment (--python) of your own."
    )


def read(path: Path) -> str | None:
    """The text of a file; None where there is none.

    Raises:
        DoctorError: it is there and cannot be read.
    """
    data = read_bytes(path)
    return None if data is None else data.decode("utf-8", "replace")


def read_bytes(path: Path) -> bytes | None:
    """What is in a plain file; None where there is none.

    Raises:
        DoctorError: it is there and cannot be read; so is a pipe, which would be waited for, and what is too large.
    """
    try:
        return read_bounded(path, LIMIT)
    except Unknown as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise DoctorError(
            f"{path} cannot be read ({error}); move it away and start again."
        ) from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none, or none that can be understood."""
    try:
        found = parse_json(read_bytes(path) or b"{}")
    except Unknown:
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file so that a reader finds the old one or the new one.

    Raises:
        DoctorError: it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DoctorError(
            f"{path} cannot be written: {error.strerror}; free space there or make it writable."
        ) from error


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML text as a table.

    Raises:
        ValueError: it is none.
    """
    table: dict[str, Any] = tomllib.loads(text)
    return table

"""Small files that must survive a kill: written beside, flushed, and put in place as a whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from doctor.bounded import parse_json, read_bounded
from doctor.errors import DoctorError, Unknown

JSON_LIMIT = 32 << 20
TEXT_LIMIT = 256 << 20
"""Bytes; the build.ninja of a PyTorch with all its targets is some 60 MB."""


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


def read_json(path: Path) -> Any:
    """What a JSON file holds; None where there is none, or it is damaged."""
    try:
        return parse_json(read_bounded(path, JSON_LIMIT))
    except Unknown:
        return None


def read_text(path: Path, errors: str = "surrogateescape") -> str | None:
    """The text of a file of a source tree or build folder; None where there is none that can be read."""
    try:
        return read_bounded(path, TEXT_LIMIT).decode("utf-8", errors).replace("\r\n", "\n")
    except Unknown:
        return None

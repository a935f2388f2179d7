"""Small files that matter: the old one or the new one is there after a kill, never half of one."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from doctor.errors import DoctorError
from doctor.toml import tomllib


def write(path: Path, text: str) -> None:
    """Put a text under a name once it is whole and on the disk; folders are made as needed.

    Raises:
        DoctorError: no space, no permission.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):
            partial.chmod(path.stat().st_mode & 0o777)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise cannot_write(path, error) from error


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
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DoctorError(f"{path} cannot be read ({error.strerror or error}).") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none, or none that can be understood."""
    try:
        found = json.loads(read(path) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML text as a table.

    Raises:
        ValueError: it is none.
    """
    table: dict[str, Any] = tomllib.loads(text)
    return table

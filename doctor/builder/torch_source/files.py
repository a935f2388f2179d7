"""Small files that must survive a kill: written beside, flushed, and put in place as a whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from doctor.errors import DoctorError


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
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

"""The last set of packages that was seen to work here, for when a newer one does not."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from doctor.work import files

NAME = "proven.json"


def remember_proven(state: Path, requirements: Sequence[str]) -> None:
    """Keep a dated set, such as a nightly torch with its Triton, as proven on this machine.

    Raises:
        DoctorError: it cannot be written.
    """
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    files.write(state / NAME, json.dumps({"time": now, "requirements": list(requirements)}))


def last_proven(state: Path) -> tuple[str, ...]:
    """The set that was proven last; empty where none was."""
    found = files.read_object(state / NAME).get("requirements")
    return tuple(str(item) for item in found) if isinstance(found, list) else ()

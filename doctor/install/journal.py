"""What was begun and how it ended, a line of JSON each, on the disk before the work goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from doctor.errors import Unknown
from doctor.text.bounded import parse_json
from doctor.work.files import cannot_write, read_bytes

SCHEMA = 1

BEGIN, DONE, FAILED, SKIPPED = "begin", "done", "failed", "skipped"
BROKEN, REPAIRED = "broken", "repaired"
"""A step ended and left a package half-installed; what it left was cleared away."""

UNDO = "undo"
"""What stands for a step while the way back is gone."""


@dataclass(frozen=True)
class Entry:
    """One line.

    Attributes:
        time: UTC, ISO 8601.
        plan: fingerprint of the plan that was carried out.
        details: `damaged` and `unowned` of the environment at a begin, seconds, reason, log.
    """

    time: str
    event: str
    step: str
    plan: str
    details: Mapping[str, Any] = field(default_factory=dict)


class Journal:
    """The journal in a file; a new one is begun where there is none, or one of another schema.

    Raises:
        DoctorError: it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self._torn = False
        try:
            data = read_bytes(path) or b""
            if data and not self._read(data):
                path.rename(path.with_name(f"{path.name}.{time.strftime('%Y%m%d-%H%M%S')}"))
                data = b""
            self._torn = bool(data) and not data.endswith(b"\n")
            if not data:
                self._append({"schema": SCHEMA})
        except OSError as error:
            raise cannot_write(path, error) from error

    def _read(self, data: bytes) -> bool:
        """Take the lines in; a torn or damaged one is passed over. False for another schema."""
        lines = [parsed for line in data.splitlines() if (parsed := _object(line)) is not None]
        if not lines or lines[0].get("schema") != SCHEMA:
            return False
        self.entries += (entry for line in lines[1:] if (entry := _entry(line)) is not None)
        return True

    def _append(self, line: Mapping[str, Any]) -> None:
        text = ("\n" if self._torn else "") + json.dumps(line) + "\n"
        # a disk that fills up takes half a line: the next one must not go on in it
        self._torn = True
        with self.path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        self._torn = False

    def add(self, event: str, step: str, plan: str, **details: Any) -> None:
        """Write a line, and return when it is on the disk.

        Raises:
            DoctorError: it cannot be written.
        """
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entry = Entry(now, event, step, plan, details)
        try:
            self._append(vars(entry))
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.entries.append(entry)

    def unfinished(self) -> Entry | None:
        """The begin of what was killed or left something half-installed, and was not mended since."""
        begun: Entry | None = None
        for entry in self.entries:
            if entry.event == BEGIN:
                # of several in a row the first knows what was there before any of them
                begun = begun or entry
            elif entry.event in (DONE, FAILED, REPAIRED):
                begun = None
        return begun


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = parse_json(line)
    except Unknown:
        return None
    return found if isinstance(found, dict) else None


def _entry(line: Mapping[str, Any]) -> Entry | None:
    """A line that is one of ours."""
    try:
        entry = Entry(**line)
    except TypeError:
        return None
    words: list[object] = [entry.time, entry.event, entry.step, entry.plan]
    if not isinstance(entry.details, dict):
        return None
    for name in ("damaged", "unowned"):
        names = entry.details.get(name) or []
        words += names if isinstance(names, list) else [names]
    return entry if all(isinstance(word, str) for word in words) else None

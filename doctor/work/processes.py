"""The processes of a build: found by a mark in their environment, measured, and ended, orphans too.

ninja gives every compiler a session of its own, so a process group does not hold them together; a
variable that all of them inherit does, and survives the death of those between.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MARK = "NANOCHAT_DOCTOR_BUILD"
SERVER_MARKS = (b"SCCACHE_START_SERVER=",)
"""Caches that serve later builds too are left alone."""

GRACE = 2.0
"""Seconds between asking processes to end and ending them."""

OUTPUT = re.compile(rb"(?:^|\0)-o\0([^\0]+\.o(?:bj)?)(?:\0|$)")
HIGH_WATER = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)
RESIDENT = re.compile(r"^VmRSS:\s+(\d+) kB", re.MULTILINE)
PARENT = re.compile(r"^PPid:\s+(\d+)", re.MULTILINE)


def marked(value: str) -> list[int]:
    """Processes whose environment has the mark with this value, other than this one."""
    needle = f"{MARK}={value}".encode()
    return [pid for pid in _pids() if pid != os.getpid() and _has(pid, needle)]


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _has(pid: int, needle: bytes) -> bool:
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return needle in entries and not any(e.startswith(SERVER_MARKS) for e in entries)


def end(value: str, first: Iterable[int] = ()) -> int:
    """End all processes of a build, those asked first that tidy up after themselves; how many there were."""
    found = set(marked(value)) | set(first)
    _signal(found, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    left = found
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = {pid for pid in marked(value) if not _is_zombie(pid)}
    while left:
        # what was started in between is met in the next round
        _signal(left, signal.SIGKILL)
        time.sleep(0.02)
        left = {pid for pid in marked(value) if not _is_zombie(pid)}
    return len(found)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return True


@dataclass(frozen=True)
class Sample:
    """Memory of a build's processes at one moment, in MB."""

    total: int
    objects: dict[str, int]
    """Of each object that is being compiled: its processes together, at the most so far."""

    @property
    def heaviest(self) -> tuple[str, int] | None:
        """The object whose compiler takes the most."""
        return max(self.objects.items(), key=lambda item: item[1], default=None)


class Sampler:
    """Looks at a build's processes again and again; which are its own is remembered."""

    def __init__(self, value: str) -> None:
        self._needle = f"{MARK}={value}".encode()
        self._own: dict[int, bytes | None] = {}
        self.peaks: dict[str, int] = {}
        """Object -> MB at the most, of all samples."""

    def sample(self) -> Sample:
        """Measure once."""
        pids = _pids()
        known = {pid: self._own[pid] for pid in pids if pid in self._own}
        for pid in pids:
            if pid not in known:
                known[pid] = _command(pid) if _has(pid, self._needle) else None
        self._own = known
        total, parents, memory = 0, {}, {}
        for pid, command in known.items():
            if command is None:
                continue
            status = _status(pid)
            parent, now = PARENT.search(status), RESIDENT.search(status)
            if parent is None or now is None:
                continue
            total += int(now[1])
            most = HIGH_WATER.search(status)
            parents[pid], memory[pid] = int(parent[1]), int(most[1] if most else now[1])
        found: dict[str, int] = {}
        for pid, size in memory.items():
            name = self._object(pid, parents)
            if name:
                found[name] = found.get(name, 0) + size // 1024
        for name, size in found.items():
            self.peaks[name] = max(size, self.peaks.get(name, 0))
        return Sample(total // 1024, found)

    def _object(self, pid: int, parents: dict[int, int]) -> str | None:
        """The object that a process works on: named by itself, or by who started it."""
        found = None
        while pid in parents:
            match = OUTPUT.search(self._own.get(pid) or b"")
            if match and not match[1].startswith(b"/tmp/"):
                found = match[1].decode("utf-8", "replace")
            pid = parents[pid]
        return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""

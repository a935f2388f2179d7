"""What a command would install, replace and remove: uv and pip say so themselves when they rehearse."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from doctor.environment.command_line import Line
from doctor.errors import Unknown
from doctor.machine.pyenv import normalised
from doctor.text.bounded import parse_json, read_bounded
from doctor.work.files import LIMIT

UV_LINE = re.compile(r"^\s*(?P<sign>[-+~])\s+(?P<name>[\w.-]+)==(?P<version>\S+)", re.MULTILINE)
SHOWN = 6
FIRST = ("torch", "torch-npu", "triton")
"""What a reader looks for among thirty packages."""


@dataclass(frozen=True)
class Change:
    """A package that goes from one version (None: not installed) to another (None: removed)."""

    name: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.name} {self.after}"
        return f"{self.name} {self.before} → {self.after or 'removed'}"


def rehearse(
    line: Line,
    *,
    cwd: Path,
    env: Mapping[str, str],
    installed: Mapping[str, str],
    report: Path,
    seconds: float,
) -> tuple[Change, ...] | None:
    """What a line would change; None where its tool does not say, fails, or takes too long.

    Args:
        installed: distribution -> version as it is now.
        report: a file that pip may write; it is removed again.
    """
    rehearsal = line.rehearsed(report)
    if rehearsal is None:
        return None
    try:
        done = subprocess.run(
            rehearsal.words,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode != 0:
            return None
        if line.tool == "uv":
            return parse_uv((done.stdout + done.stderr).decode("utf-8", "replace"))
        return parse_pip(read_bounded(report, LIMIT), installed)
    except (OSError, Unknown, subprocess.TimeoutExpired):
        return None
    finally:
        report.unlink(missing_ok=True)


def parse_uv(text: str) -> tuple[Change, ...]:
    """The lines ` - torch==2.13.0` and ` + torch==2.14.0` of a dry run, two of a name made one."""
    versions: dict[str, list[str | None]] = {}
    for match in UV_LINE.finditer(text):
        pair = versions.setdefault(normalised(match["name"]), [None, None])
        if match["sign"] in "-~":
            pair[0] = match["version"]
        if match["sign"] in "+~":
            pair[1] = match["version"]
    return tuple(Change(name, before, after) for name, (before, after) in versions.items())


def parse_pip(report: bytes, installed: Mapping[str, str]) -> tuple[Change, ...] | None:
    """The packages of an installation report; None where it cannot be read."""
    try:
        found = [item["metadata"] for item in parse_json(report)["install"]]
        pairs = [(normalised(str(item["name"])), str(item["version"])) for item in found]
    except (Unknown, KeyError, TypeError):
        return None
    return tuple(Change(name, installed.get(name), version) for name, version in pairs)


def describe(changes: Sequence[Change]) -> list[str]:
    """Lines for a person: what is replaced or removed in full, what is new in short."""
    added = sorted((c for c in changes if c.before is None), key=lambda c: c.name not in FIRST)
    new = [str(change) for change in added]
    more = f", and {len(new) - SHOWN} more" if len(new) > SHOWN else ""
    lines = [f"replaces {change}" for change in changes if change.before and change.after]
    lines += [f"removes {change.name} {change.before}" for change in changes if not change.after]
    return lines + ([f"adds {', '.join(new[:SHOWN])}{more}"] if new else [])

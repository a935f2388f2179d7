"""What made pip or uv fail, by their own messages (build/installers.toml), never by names of packages."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from doctor.knowledge.tables import Tables

FRAME = re.compile(r"^[\s×╰─├▶│>]*(?:(?:ERROR|error|cause|Caused by|hint|WARNING|OSError): )*")
"""What pip and uv draw around a message."""

FOREIGN = re.compile(r"^\s*(?:[╰─>\s]*\[\d+ lines of output\]|\[(?:stderr|stdout)\])$")
"""From here on a package speaks: pip says where it ends, uv is blank or not indented then."""


@dataclass(frozen=True)
class Cause:
    """A kind of failure, by its name in the table, why it came about and what to do."""

    name: str
    why: str
    cure: str


def cause(lines: Sequence[str], held: Mapping[str, str] | None = None) -> Cause | None:
    """The kind of failure that a command's last lines tell; None where they tell none that is known.

    Args:
        held: distribution -> version that the command had to leave in place.
    """
    said = [FRAME.sub("", line).rstrip() for line in own_lines(lines)]
    found = next((c for rule, c in _rules() if any(rule.search(line) for line in said)), None)
    if found is not None and found.name in ("conflict", "no-version") and _names(said, held or {}):
        return next(c for _, c in _rules() if c.name == "held")
    return found


def own_lines(lines: Sequence[str]) -> Iterator[str]:
    """What the tool itself has said, without what packages said while they were built."""
    foreign = ""
    for line in lines:
        if FOREIGN.match(line):
            foreign = "uv" if line.strip().startswith("[s") else "pip"
        elif foreign == "pip":
            foreign = "" if line.strip() == "[end of output]" else foreign
        elif not foreign or (line.strip() and not line.startswith("  ")):
            foreign = ""
            yield line


def _names(said: Sequence[str], held: Mapping[str, str]) -> bool:
    """Whether a pin stands among the reasons."""
    words = {word.strip(",;()") for line in said for word in line.split()}
    return any(f"{name}=={version}" in words for name, version in held.items())


@functools.cache
def _rules() -> tuple[tuple[re.Pattern[str], Cause], ...]:
    rows = Tables().rows("installers", "cause")
    return tuple(
        (re.compile(row["pattern"]), Cause(row["name"], row["cause"], row["cure"])) for row in rows
    )

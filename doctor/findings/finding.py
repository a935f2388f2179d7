"""What a finding is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ERROR, WARNING, INFO = SEVERITIES = ("error", "warning", "info")
"""What stops the intended work here; what slows or endangers it; what is merely not there yet."""


@dataclass(frozen=True)
class Remedy:
    """What to do: prose, and commands that may be run as they stand. Destructive steps are prose."""

    text: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A problem of this machine.

    Attributes:
        code: name in build/codes.toml.
        cause: one or two sentences with this machine's own values.
        evidence: file or command, and the value read.
    """

    code: str
    severity: str
    title: str
    cause: str
    evidence: tuple[str, ...]
    remedy: Remedy

    def to_json(self) -> dict[str, Any]:
        """The contract's shape."""
        return {
            "code": self.code,
            "severity": self.severity,
            "title": self.title,
            "cause": self.cause,
            "evidence": list(self.evidence),
            "remedy": {"text": self.remedy.text, "commands": list(self.remedy.commands)},
        }

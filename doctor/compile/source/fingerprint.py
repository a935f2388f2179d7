"""What a build depends on: a build goes on, and a wheel is used again, only where all of it is the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from doctor.text.bounded import read_json
from doctor.work.files import write_json

STATE = ".nanochat-doctor.json"
"""In the build folder, so that it goes where the objects go."""

SCHEMA = 1

WITHOUT_EFFECT = ("MAX_JOBS", "_COMPILER_LAUNCHER")
"""Endings of variables that change no object."""


@dataclass(frozen=True)
class Fingerprint:
    """Name -> value of all that objects and wheel depend on."""

    parts: Mapping[str, str]

    @property
    def key(self) -> str:
        """Short name of the whole."""
        text = json.dumps(dict(sorted(self.parts.items())))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def has(self, settings: Mapping[str, str]) -> bool:
        """Whether it was made with these settings, as far as they have an effect."""
        return all(self.parts.get(k) == v for k, v in _counted(settings).items())

    def changed(self, former: Fingerprint) -> list[str]:
        """What differs from an earlier one, in words."""
        names = sorted({*self.parts, *former.parts})
        return [
            f"{name} ({_short(former.parts.get(name))} → {_short(self.parts.get(name))})"
            for name in names
            if self.parts.get(name) != former.parts.get(name)
        ]


def _counted(settings: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in settings.items() if not k.endswith(WITHOUT_EFFECT)}


def _short(value: str | None) -> str:
    if value is None:
        return "not set"
    return f"{value[:12]}…" if len(value) == 64 and " " not in value else value


def fingerprint(
    source: str, settings: Mapping[str, str], programs: Mapping[str, str]
) -> Fingerprint:
    """Put one together.

    Args:
        source: hash of the source tree's state.
        settings: the recipe's variables.
        programs: name -> path and version of compilers, CMake, Python.
    """
    return Fingerprint({"source": source, **_counted(settings), **programs})


@dataclass(frozen=True)
class State:
    """How far the build in a build folder is.

    Attributes:
        stage: `configuring`, `compiling`, `packing` or `done`.
    """

    fingerprint: Fingerprint
    stage: str


def read_state(build: Path) -> State | None:
    """The state of a build folder; None where it is not ours, or cannot be read."""
    data = read_json(build / STATE)
    try:
        parts = {str(k): str(v) for k, v in data["fingerprint"].items()}
        return State(Fingerprint(parts), str(data["stage"]))
    except (TypeError, KeyError, AttributeError):
        return None


def write_state(build: Path, state: State) -> None:
    """Write it down before the stage begins.

    Raises:
        DoctorError: the disk is full, or the tree is not ours to write.
    """
    data = {
        "schema": SCHEMA,
        "stage": state.stage,
        "fingerprint": dict(sorted(state.fingerprint.parts.items())),
    }
    write_json(build / STATE, data)

"""What our commands have put in and taken out, to tell it from what somebody else has installed since."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from doctor.environment.command_line import Line
from doctor.environment.place import Place
from doctor.environment.requirements import needs, parsed
from doctor.machine.pyenv import Distribution, normalised
from doctor.work import files

NAME = "origins.json"
PENDING = "pending.json"

UNNAMED = ("torch", "torch-npu", "rustbpe", "pip", "setuptools", "wheel")
"""What commands bring in that name no requirement: builds, links to a tree, `-m venv`."""


def read(state: Path) -> dict[str, Any]:
    """Distribution -> `version` that a command of ours left (None: it took it out), and `index` that it came from."""
    return files.read_object(state / NAME)


def is_ours(entries: Mapping[str, Any], item: Distribution) -> bool:
    """Whether a distribution is as a command of ours left it."""
    entry = entries.get(item.name)
    return isinstance(entry, dict) and entry.get("version") == item.version


def begin(target: Place, line: Line) -> None:
    """Note what is there before a command, on the disk, so that a kill does not hide what it did.

    Raises:
        DoctorError: it cannot be written.
    """
    asked = line.installed if line.tool else UNNAMED
    note = {"before": _versions(target), "asked": asked, "index": line.index}
    files.write(target.state / PENDING, json.dumps(note))


def settle(target: Place, *, cut_off: bool = False) -> None:
    """Take in what has changed since `begin`; without one there is nothing to do.

    Args:
        cut_off: others may have changed something since: only what the command asked for, and what that
            needs, is taken for its work.

    Raises:
        DoctorError: it cannot be written.
    """
    note = files.read_object(target.state / PENDING)
    before = note.get("before")
    if not isinstance(before, dict) or not target.exists:
        return
    now, entries = _versions(target), read(target.state)
    asked = note.get("asked")
    asked = [text for text in asked if isinstance(text, str)] if isinstance(asked, list) else []
    ours = needed(target, asked) if cut_off else now.keys()
    for name in before.keys() | now.keys():
        if before.get(name) != now.get(name) and (name in ours or name not in now):
            entries[name] = {"version": now.get(name), "index": note.get("index")}
    files.write(target.state / NAME, json.dumps(entries, indent=1))
    files.remove(target.state / PENDING)


def needed(target: Place, asked: Iterable[str]) -> set[str]:
    """Names of the requirements, and of all that these need here in their turn."""
    environment = target.environment()
    found: set[tuple[str, frozenset[str]]] = set()
    todo = list(parsed(asked))
    while todo:
        requirement = todo.pop()
        name, extras = normalised(requirement.name), frozenset(requirement.extras)
        if (name, extras) not in found:
            found.add((name, extras))
            todo += needs(environment, name, extras)
    return {name for name, _ in found}


def _versions(target: Place) -> Mapping[str, str]:
    return {name: item.version for name, item in target.installed().items()}

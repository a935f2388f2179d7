"""Wheels of the tokenizer's crate that were built earlier, by the state of its source: the next one needs no Rust."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from doctor.machine.own_folder import crate_folder

SOURCES = ("Cargo.toml", "Cargo.lock", "pyproject.toml", ".cargo/config.toml", "src/**/*")
"""What goes into a wheel."""

KEPT = 3
"""States of the source whose wheels are kept."""


def state(crate: Path) -> str:
    """Changes whenever something changes that goes into a wheel."""
    found = hashlib.sha256()
    files = {path for pattern in SOURCES for path in crate.glob(pattern) if path.is_file()}
    for path in sorted(files):
        contents = path.read_bytes()
        found.update(f"{path.relative_to(crate)} {len(contents)}\n".encode() + contents)
    return found.hexdigest()[:16]


def find(crate: Path, env: Mapping[str, str], tags: Collection[str]) -> Path | None:
    """A wheel of this state of the crate for an interpreter.

    Args:
        tags: endings of wheels' names that the interpreter can take, see `tags_of`.
    """
    folder = crate_folder(env)
    if folder is None:
        return None
    try:
        wheels = sorted((folder / state(crate)).glob("*.whl"))
    except OSError:
        return None
    return next((path for path in wheels if fits(path.name, tags)), None)


def fits(name: str, tags: Collection[str]) -> bool:
    """Whether a wheel's name ends in one of the tags."""
    return any(name.endswith(f"-{tag}.whl") for tag in tags)


def tags_of(python: str, machine: str) -> tuple[str, ...]:
    """Tags of the wheels that our build makes for an interpreter: for it alone, or for the stable ABI.

    Args:
        python: `3.12`, or `3.13t` for the free-threaded one, which has no stable ABI.
        machine: as uname says it.
    """
    free = python.endswith("t")
    number = python.rstrip("t").replace(".", "")
    pairs = [f"cp{number}-cp{number}{'t' if free else ''}", *([] if free else ["cp310-abi3"])]
    return tuple(f"{pair}-linux_{machine}" for pair in pairs)


def keep(wheel: Path, crate: Path, env: Mapping[str, str]) -> None:
    """Put a wheel into the cache. A cache only saves time: what goes wrong is as if there were none."""
    folder = crate_folder(env)
    if folder is None:
        return
    with contextlib.suppress(OSError):
        place = folder / state(crate)
        place.mkdir(parents=True, exist_ok=True)
        partial = place / f".{wheel.name}.{os.getpid()}.tmp"
        shutil.copyfile(wheel, partial)
        partial.replace(place / wheel.name)
        states = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in states[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)

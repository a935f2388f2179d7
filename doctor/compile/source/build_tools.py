"""The programs that a build would run: CMake, ninja, other compilers, the packages of its Python."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from doctor.errors import Unknown
from doctor.machine.look import find_version
from doctor.machine.system import System
from doctor.planner.build.toolchain import Compiler

NEWEST_GCC, OLDEST_GCC = 20, 9
"""Versions of gcc that are looked for beside the usual one, `g++-14`."""

LIST_DISTRIBUTIONS = (
    "import importlib.metadata as m, json; "
    "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version "
    "for d in m.distributions() if d.metadata['Name']}))"
)


@dataclass(frozen=True)
class Programs:
    """What a build would run, as paths with versions; what there is none of is None.

    Attributes:
        distributions: of the Python that builds; None where it may not be asked.
        compilers: beyond those of the facts.
    """

    cmake: str | None = None
    cmake_version: str | None = None
    ninja: str | None = None
    ninja_version: str | None = None
    distributions: Mapping[str, str] | None = None
    compilers: tuple[Compiler, ...] = field(default=())


def look_at_programs(system: System, python: str | None) -> Programs:
    """Find them as the build will: beside the interpreter first, then on the PATH."""
    folder = python.rsplit("/", 1)[0] if python else None
    found = {}
    for name in ("cmake", "ninja"):
        near = f"{folder}/{name}" if folder else ""
        path = near if near and system.is_file(near) else system.which(name)
        found[name] = path
        found[f"{name}_version"] = _version(system, path, "--version") if path else None
    return Programs(
        **found,
        distributions=_distributions(system, python),
        compilers=tuple(_other_compilers(system)),
    )


def _version(system: System, path: str, option: str) -> str | None:
    try:
        # below a root a program is found by its name alone
        name = path if system.live else path.rsplit("/", 1)[-1]
        return find_version(system.output([name, option]))
    except Unknown:
        return None


def _distributions(system: System, python: str | None) -> Mapping[str, str] | None:
    if python is None or not system.live:
        return None
    try:
        return dict(json.loads(system.output([python, "-c", LIST_DISTRIBUTIONS])))
    except (Unknown, ValueError):
        return None


def _other_compilers(system: System) -> Iterator[Compiler]:
    for number in range(NEWEST_GCC, OLDEST_GCC - 1, -1):
        for cxx in (
            system.which(f"g++-{number}"),
            f"/opt/rh/gcc-toolset-{number}/root/usr/bin/g++",
        ):
            if cxx and system.is_file(cxx):
                version = _version(system, cxx, "-dumpfullversion") or str(number)
                yield Compiler("gcc", version, cxx.replace("g++", "gcc"), cxx)

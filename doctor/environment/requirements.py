"""What an environment's packages ask for, and which requirements it does not meet, read from its files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from doctor.environment import integrity
from doctor.errors import Unknown
from doctor.machine.pyenv import PythonEnvironment, normalised

if TYPE_CHECKING:
    from packaging.requirements import Requirement

SHOWN = 3


def missing(env: PythonEnvironment, requirements: Sequence[str]) -> str | None:
    """What is missing, too old, too new or not whole; None where all is there."""
    reasons = list(_reasons(env, requirements))
    return "; ".join(reasons[:SHOWN]) + (" …" if len(reasons) > SHOWN else "") or None


def parsed(lines: Iterable[str]) -> Iterator[Requirement]:
    """The requirements among some lines; paths, addresses and values of options are none."""
    from packaging.requirements import InvalidRequirement, Requirement

    for line in lines:
        try:
            yield Requirement(line)
        except (InvalidRequirement, RecursionError):
            continue


def needs(env: PythonEnvironment, name: str, extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """What an installed package asks for in its environment, with some of its extras."""
    try:
        lines = env.requirements(name)
    except Unknown:
        return
    extras = ("", *extras)
    yield from (item for item in parsed(lines) if _applies(item, env, extras))


def _applies(requirement: Requirement, env: PythonEnvironment, extras: Iterable[str]) -> bool:
    from packaging.markers import UndefinedComparison, UndefinedEnvironmentName

    marker = requirement.marker
    try:
        return marker is None or any(
            marker.evaluate({"python_version": env.minor, "extra": extra}) for extra in extras
        )
    except (UndefinedComparison, UndefinedEnvironmentName, RecursionError):
        return False


def _meets(version: str, requirement: Requirement) -> bool:
    from packaging.version import InvalidVersion

    try:
        return requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        return False


def _reasons(env: PythonEnvironment, requirements: Sequence[str]) -> Iterator[str]:
    for requirement in parsed(requirements):
        if not _applies(requirement, env, ("",)):
            continue
        name, dist = requirement.name, env.distributions().get(normalised(requirement.name))
        if dist is None:
            yield f"{name} is not installed"
        elif not _meets(dist.version, requirement):
            yield f"{name} {dist.version} is installed, and {name}{requirement.specifier} is needed"
        elif dist.folder.endswith(".dist-info") and (reason := integrity.damage(Path(dist.folder))):
            yield f"{name} {dist.version} {reason}"

"""Which requirements an environment does not meet, read from its files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from doctor.builder import integrity
from doctor.pyenv import PythonEnvironment, normalised

SHOWN = 3


def missing(env: PythonEnvironment, requirements: Sequence[str]) -> str | None:
    """What is missing, too old, too new or not whole; None where all is there."""
    reasons = list(_reasons(env, requirements))
    return "; ".join(reasons[:SHOWN]) + (" …" if len(reasons) > SHOWN else "") or None


def _reasons(env: PythonEnvironment, requirements: Sequence[str]) -> Iterator[str]:
    from packaging.markers import UndefinedEnvironmentName
    from packaging.requirements import InvalidRequirement, Requirement

    for line in requirements:
        try:
            requirement = Requirement(line)
            marker = requirement.marker
            applies = marker is None or marker.evaluate({"python_version": env.minor, "extra": ""})
        except (InvalidRequirement, UndefinedEnvironmentName):
            continue
        if not applies:
            continue
        name, dist = requirement.name, env.distributions().get(normalised(requirement.name))
        if dist is None:
            yield f"{name} is not installed"
        elif not requirement.specifier.contains(dist.version, prereleases=True):
            yield f"{name} {dist.version} is installed, and {name}{requirement.specifier} is needed"
        elif dist.folder.endswith(".dist-info") and (reason := integrity.damage(Path(dist.folder))):
            yield f"{name} {dist.version} {reason}"

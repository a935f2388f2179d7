"""Where a plan is carried out: an interpreter, its environment, and the folder of our own notes in it."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

from doctor.errors import DoctorError, Unknown, WrongUsage
from doctor.machine.pyenv import Distribution, PythonEnvironment
from doctor.machine.system import System
from doctor.probe import python_env

FOLDER = "nanochat-doctor"
"""Of journal, snapshot, logs and constraints, below the environment's prefix."""

SYSTEM_SECONDS = 60.0


@dataclass(frozen=True)
class Place:
    """An environment to change.

    Attributes:
        python: path of its interpreter, which may not be there yet.
        state: folder of our own notes.
        checkout: the repository's folder, in which commands run.
    """

    python: str
    prefix: Path
    state: Path
    checkout: Path

    @property
    def exists(self) -> bool:
        """Whether there is an interpreter."""
        return os.access(self.python, os.X_OK)

    @functools.cached_property
    def layout(self) -> python_env.Interpreter:
        """Layout of the environment; only once it exists.

        Raises:
            DoctorError: the interpreter does not answer as one.
        """
        try:
            return python_env.choose(System(seconds=SYSTEM_SECONDS), self.python)
        except Unknown as error:
            raise DoctorError(f"{error}; name another interpreter with --python.") from error

    @property
    def site(self) -> Path:
        """Folder into which packages are installed."""
        return Path(self.layout.lib) / "site-packages"

    def environment(self, system: System | None = None) -> PythonEnvironment:
        """Import path and distributions as they are now."""
        return python_env.environment(system or System(seconds=SYSTEM_SECONDS), self.layout)

    def installed(self) -> dict[str, Distribution]:
        """Distributions of the environment itself, without those that it shares with a system."""
        if not self.exists:
            return {}
        here = str(self.prefix)
        found = self.environment().distributions().items()
        return {name: item for name, item in found if item.site.startswith(f"{here}/")}


def target(python: str, checkout: Path, state: Path | None = None) -> Place:
    """The environment of an interpreter that is there, or is to be made.

    Raises:
        WrongUsage: the path cannot be that of an interpreter in an environment.
        DoctorError: it does not answer as one.
    """
    path = Path(os.path.normpath(checkout.absolute() / python))
    if path.is_dir() or path.parent.name not in ("bin", "Scripts"):
        raise WrongUsage(
            f"{python} is no interpreter; give the path of one, such as .venv/bin/python."
        )
    prefix = path.parent.parent
    if path.exists():
        system = System(seconds=SYSTEM_SECONDS)
        try:
            prefix = Path(python_env.choose(system, str(path)).prefix)
        except Unknown as error:
            raise WrongUsage(f"{error}; name another interpreter with --python.") from error
    return Place(str(path), prefix, state or prefix / FOLDER, checkout)

"""Puts a wheel that was built and proved into an environment."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from doctor.errors import DoctorError
from doctor.planner.commands import Target, install
from doctor.work.programs import Log, has_uv, with_own_path


def install_wheel(wheel: Path, python: str) -> None:
    """Install a wheel of torch and what it requires, in the place of the torch that is there.

    Raises:
        DoctorError: the installer failed; its log lies beside the wheel.
    """
    env = with_own_path(os.environ)
    command = install(Target(python, uv=has_uv(env)), [str(wheel)], again=("torch",))
    log = Log(wheel.with_name("install.log"))
    done = log.run(shlex.split(command), cwd=wheel.parent, env=env)
    if done.failed:
        raise DoctorError(
            f"{wheel.name} was built and cannot be installed into {python}: {done.last_line()} (all of it in "
            f"{log.path}); put that right and run the same command again, which builds nothing anew."
        )

"""How the user calls this tool from where he stands: what commands that we print begin with."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from doctor.checkout import CHECKOUT

NAME = "nanochat-doctor"


def tool() -> str:
    """The tool as a word of the shell: `./nanochat-doctor` in a checkout, `nanochat-doctor` where it is installed.

    From another folder the launcher of the checkout is named by the shorter of its two paths.
    """
    launcher = CHECKOUT / NAME
    if _is_launched(launcher):
        return shlex.quote(_from_here(str(launcher)))
    found = shutil.which(NAME)
    if found and os.path.dirname(os.path.realpath(found)) == os.path.dirname(
        os.path.realpath(os.path.join(sys.prefix, "bin", NAME))
    ):
        return NAME
    script = os.path.join(sys.prefix, "bin", NAME)
    if os.access(script, os.X_OK):
        return shlex.quote(script)
    return f"{shlex.quote(sys.executable)} -m doctor"


def command(*words: str) -> str:
    """A command of this tool as the user can type it."""
    return " ".join([tool(), *map(shlex.quote, words)])


def _is_launched(launcher: Path) -> bool:
    """Whether we run in the environment that a checkout's launcher has made."""
    if not launcher.is_file():
        return False
    venv = os.environ.get("NANOCHAT_VENV") or str(launcher.parent / ".venv")
    return os.path.realpath(venv) == os.path.realpath(sys.prefix)


def _from_here(path: str) -> str:
    """A path from the current folder, or as it is where that is shorter or the folder is gone."""
    try:
        relative = os.path.relpath(path)
        if os.getcwd() == "/":  # also where the user's own folder is gone
            return path
    except OSError:
        return path
    if os.sep not in relative:
        return f"./{relative}"
    return min(relative, path, key=len)


def apply_command(python: str | None, environment: str | None, *words: str) -> str:
    """The command that carries the plan out in an environment; it names one that is not the tool's own.

    Args:
        python: path of the environment's interpreter; None is unknown.
        environment: its folder; None where it is no environment but a system's Python, beside which apply installs.
        words: further options.
    """
    if python is None or environment is None or os.path.realpath(environment) == _own():
        return command("apply", *words)
    return command("apply", "--python", python, *words)


def _own() -> str:
    """The environment in which apply works unless told otherwise."""
    within = sys.prefix != sys.base_prefix
    return os.path.realpath(sys.prefix if within else CHECKOUT / ".venv")

"""The command lines of steps: what is shown is what is run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """Where the plan's steps install.

    Attributes:
        python: its interpreter, as commands name it.
        base_python: what makes the environment; None where it exists already.
        uv: whether uv does the installing, else pip.
        launcher: how this tool is called.
    """

    python: str
    base_python: str | None = None
    uv: bool = False
    launcher: str = "./nanochat-doctor"

    @property
    def folder(self) -> str:
        """The environment's folder."""
        return self.python.rsplit("/bin/", 1)[0]


def make_environment(target: Target) -> str:
    """The command that makes the environment."""
    assert target.base_python is not None
    if target.uv:
        return shlex.join(
            [
                "uv",
                "venv",
                "--seed",
                "--allow-existing",
                "--python",
                target.base_python,
                target.folder,
            ]
        )
    return shlex.join([target.base_python, "-m", "venv", target.folder])


def install(
    target: Target,
    requirements: Sequence[str],
    *,
    index: str | None = None,
    option: str = "--index-url",
    again: bool = False,
    pre: bool = False,
) -> str:
    """The command that installs packages.

    Args:
        index: index URL in place of the one that the tools are set to.
        option: how the index is named: `--find-links` for a list of files.
        again: replace another build of the first requirement: `2.9.1+cpu` counts as `2.9.1`.
        pre: take pre-releases.
    """
    name = requirements[0].partition("==")[0].split("[")[0]
    if target.uv:
        option = option.replace("--index-url", "--default-index")  # as uv calls it
        words = ["uv", "pip", "install", "--python", target.python]
        words += ["--reinstall-package", name] if again else []
        words += ["--prerelease", "allow"] if pre else []
        words += [*requirements, *([option, index] if index else [])]
    else:
        words = [target.python, "-m", "pip", "install"]
        words += ["--force-reinstall"] if again else []
        words += ["--pre"] if pre else []
        words += [*requirements, *([option, index] if index else [])]
    return shlex.join(words)


def uninstall(target: Target, name: str) -> str:
    """The command that takes a package out."""
    if target.uv:
        return shlex.join(["uv", "pip", "uninstall", "--python", target.python, name])
    return shlex.join([target.python, "-m", "pip", "uninstall", "--yes", name])


def module(target: Target, name: str, *arguments: str) -> str:
    """The command that runs a module of this project in the environment."""
    return shlex.join([target.python, "-m", name, *arguments])


def doctor(target: Target, *arguments: str) -> str:
    """A command of this tool."""
    return shlex.join([target.launcher, *arguments])

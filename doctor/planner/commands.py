"""The command lines of steps: what is shown is what is run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
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
        # the folder may hold something already: notes of an apply that was cut off
        words = ["uv", "venv", "--seed", "--allow-existing", "--python", target.base_python]
        return shlex.join([*words, target.folder])
    return shlex.join([target.base_python, "-m", "venv", target.folder])


def install(
    target: Target,
    requirements: Sequence[str],
    *,
    index: str | None = None,
    option: str = "--index-url",
    again: Sequence[str] = (),
    pre: bool = False,
    deps: bool = True,
) -> str:
    """The command that installs packages.

    Args:
        index: index URL in place of the one that the tools are set to.
        option: how the index is named: `--find-links` for a list of files.
        again: packages that go in again, as `2.9.1+cpu` counts as `2.9.1`; pip knows only all of them.
        pre: take pre-releases.
        deps: install what the packages require, too.
    """
    if target.uv:
        options = [word for name in again for word in ("--reinstall-package", name)]
        options += ["--prerelease", "allow"] if pre else []
    else:
        options = ["--force-reinstall"] if again else []
        options += ["--pre"] if pre else []
    options += [] if deps else ["--no-deps"]
    named = index_option(target, index, option) if index else []
    return shlex.join([*installer(target, "install"), *options, *requirements, *named])


def uninstall(target: Target, *names: str) -> str:
    """The command that takes packages out."""
    return shlex.join([*installer(target, "uninstall"), *names])


def installer(target: Target, verb: str) -> list[str]:
    """The words that call uv, or the environment's pip, up to `install` or `uninstall`."""
    if target.uv:
        return ["uv", "pip", verb, "--python", target.python]
    words = [target.python, "-m", "pip", verb]
    return [*words, "--yes"] if verb == "uninstall" else words


def index_option(target: Target, url: str, option: str = "--index-url") -> list[str]:
    """The words that name an index; uv takes UV_DEFAULT_INDEX before --index-url, but not before its own option."""
    return [option.replace("--index-url", "--default-index") if target.uv else option, url]


def module(target: Target, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """The command that runs a module of this project in the environment, with variables before it."""
    set_first = "".join(f"{key}={shlex.quote(value)} " for key, value in (env or {}).items())
    return set_first + shlex.join([target.python, "-m", name, *arguments])


def doctor(target: Target, *arguments: str) -> str:
    """A command of this tool."""
    return shlex.join([target.launcher, *arguments])


def typed(command: str) -> str:
    """A command as it can be typed in the current folder: paths below it short, all others whole.

    Below `/` nothing is short: there we also stand where the user's own folder is gone.
    """
    try:
        here = f"{os.getcwd()}/"
        words = shlex.split(command)
    except (OSError, ValueError):
        return command
    short = [word.removeprefix(here) if word != here else word for word in words]
    # a program's name without a slash would be looked up on the PATH
    if short and short[0] != words[0] and "/" not in short[0]:
        short[0] = f"./{short[0]}"
    return command if short == words else shlex.join(short)

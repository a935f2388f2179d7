"""Command lines of a plan taken apart, and the variables that they run with. Nothing here runs anything."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from doctor.errors import DoctorError

ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
INDEX_OPTIONS = ("--index-url", "--default-index", "-i")
SHELL_WORDS = frozenset(("&&", "||", "|", ";", "&", ">", ">>", "<", "2>"))

REDIRECTING = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIRE_VIRTUALENV", "PIP_DRY_RUN",
               "UV_SYSTEM_PYTHON", "UV_PYTHON", "UV_TARGET", "UV_PREFIX", "VIRTUAL_ENV")  # fmt: skip
"""Variables that would send an installation somewhere else than the command says."""

OTHER_INDEXES = ("PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "UV_INDEX", "UV_EXTRA_INDEX_URL",
                 "UV_NO_INDEX", "UV_CONSTRAINT", "PIP_CONSTRAINT")  # fmt: skip
"""What could put another torch before the one that a command names with its index."""


@dataclass(frozen=True)
class Line:
    """A command line taken apart: variables before it, and its words."""

    variables: Mapping[str, str]
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        """As a person would type it."""
        set_first = (f"{name}={shlex.quote(value)}" for name, value in self.variables.items())
        return " ".join([*set_first, shlex.join(self.words)])

    @property
    def tool(self) -> str | None:
        """`uv` or `pip` where the line installs packages, else None."""
        at = self._install
        if at is None:
            return None
        return "uv" if at > 1 and _program(self.words[at - 2]) == "uv" else "pip"

    @property
    def needs_pip(self) -> bool:
        """Whether it is the environment's own pip that runs."""
        return "-m" in self.words[:3] and self.words[self.words.index("-m") + 1] == "pip"

    @property
    def _install(self) -> int | None:
        """Place of the word `install` behind pip."""
        for at, word in enumerate(self.words[1:5], start=1):
            if word == "install" and re.fullmatch(r"pip[\d.]*", _program(self.words[at - 1])):
                return at
        return None

    @property
    def installed(self) -> tuple[str, ...]:
        """The words behind `install` that are no options: requirements, and values of options."""
        at = self._install
        words = self.words[at + 1 :] if at is not None else ()
        return tuple(word for word in words if not word.startswith("-"))

    @property
    def index(self) -> str | None:
        """The index that it names."""
        for at, word in enumerate(self.words):
            name, equals, value = word.partition("=")
            if name in INDEX_OPTIONS:
                return value if equals else next(iter(self.words[at + 1 :]), None)
        return None

    def without_config(self) -> Line:
        """The same for uv, blind to its files."""
        return Line(self.variables, (*self.words, "--no-config"))

    def rehearsed(self, report: Path) -> Line | None:
        """The same as a dry run; pip writes what it would do to `report`, uv prints it."""
        if self.tool == "uv":
            return Line(self.variables, (*self.words, "--dry-run"))
        if self.tool == "pip":
            words = (*self.words, "--dry-run", "--quiet", "--report", str(report))
            return Line(self.variables, words)
        return None


def parse(command: str) -> Line:
    """Take a shell-quoted line apart. It is run without a shell, so words of a shell's own are refused.

    Raises:
        DoctorError: the quotes do not match, it is empty, or needs a shell.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise DoctorError(
            f"The plan's command {command!r} cannot be read ({error}); make the plan again."
        ) from error
    variables = {}
    while words and ASSIGNMENT.match(words[0]):
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    if not words or SHELL_WORDS & set(words):
        raise DoctorError(f"The plan's command {command!r} needs a shell; make the plan again.")
    return Line(variables, tuple(words))


def _program(word: str) -> str:
    return word.rpartition("/")[2]


def variables(line: Line, base: Mapping[str, str], constraints: Path | None) -> dict[str, str]:
    """The environment of a command.

    An index that the command names is the only one. uv learns of pip's index variable, since whoever
    has told pip about a mirror has said enough.

    Args:
        base: our own environment.
        constraints: a file of versions that must stay.
    """
    env = {key: value for key, value in base.items() if key not in REDIRECTING}
    env |= {"PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    # the other tool's settings do no harm; its progress bars would fill the log
    env |= {"PIP_PROGRESS_BAR": "off", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    named = env.get("UV_INDEX_URL") or env.get("PIP_INDEX_URL")
    if named and "UV_DEFAULT_INDEX" not in env:
        env["UV_DEFAULT_INDEX"] = named
    if line.index is not None:
        env = {key: value for key, value in env.items() if key not in OTHER_INDEXES}
    if constraints is not None:
        # as a URL: both tools take a list, whose entries are parted by blanks
        url = constraints.absolute().as_uri()
        for name in ("PIP_CONSTRAINT", "UV_CONSTRAINT"):
            env[name] = " ".join(filter(None, (env.get(name), url)))
    return env | dict(line.variables)

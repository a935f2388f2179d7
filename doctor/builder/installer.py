"""Installs packages into the examined Python: by uv where it is there, else by that Python's pip."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from doctor.builder.logged import Ended, Log
from doctor.builder.mirrors import answering
from doctor.errors import DoctorError
from doctor.look import without_credentials
from doctor.tables import Tables

QUICK = {
    "UV_HTTP_TIMEOUT": "10",
    "UV_HTTP_RETRIES": "1",
    "PIP_DEFAULT_TIMEOUT": "10",
    "PIP_RETRIES": "1",
}
"""Seconds without a byte, and tries, after which an index counts as unreachable."""


@dataclass(frozen=True)
class Index:
    """A Python index, and the words that make uv and pip ask it."""

    name: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Installer:
    """uv or pip, on one interpreter."""

    python: str
    env: Mapping[str, str]
    log: Log
    cwd: Path

    def install(self, *words: str) -> Ended:
        """Run `install` with these words."""
        return self._run([*self._words("install"), *words], self.env)

    def uninstall(self, name: str) -> Ended:
        """Take a distribution out."""
        yes = [] if self._uv else ["-y"]
        return self._run([*self._words("uninstall"), *yes, name], self.env)

    def fetch(self, requirement: str, folder: Path, tables: Tables) -> Index:
        """Put a package, without what it requires, into a folder of its own; from a mirror where need be.

        Returns:
            the index that gave it.

        Raises:
            DoctorError: no index gives it; names each with its reason.
        """
        reasons = []
        for index in self._indexes(tables):
            command = [*self._words("install"), "--no-deps", "--target", str(folder)]
            if not self._uv:
                command.append("--upgrade")  # else pip leaves a file that is there as it is
            done = self._run([*command, *index.words, requirement], {**self.env, **QUICK})
            if done.status == 0:
                return index
            reasons.append(f"{index.name}: {complaint(done)}")
        raise DoctorError(
            f"{requirement} cannot be fetched ({'; '.join(reasons)}); connect this machine or install it by hand, "
            f"then run the same command again."
        )

    @staticmethod
    def _indexes(tables: Tables) -> Iterator[Index]:
        """The index that the tool is set to, then the mirrors that answer."""
        yield Index("the Python index")
        for row in answering(tables, "python"):
            yield Index(str(row["name"]), ("--index-url", str(row["url"])))

    @property
    def _uv(self) -> str | None:
        """uv on the PATH, or beside the interpreter that runs us."""
        return shutil.which("uv", path=self.env.get("PATH")) or shutil.which(
            str(Path(sys.executable).with_name("uv"))
        )

    def _words(self, verb: str) -> list[str]:
        """The command up to its verb.

        Raises:
            DoctorError: there is neither uv nor pip, and Python cannot bring pip either.
        """
        if uv := self._uv:
            return [uv, "pip", verb, "--python", self.python]
        if self._run([self.python, "-m", "pip", "--version"], self.env).status != 0:
            done = self._run([self.python, "-m", "ensurepip"], self.env)
            if done.status != 0:
                raise DoctorError(
                    f"{self.python} has no pip and cannot make one ({done.last_line()}); install pip or uv, then "
                    f"run the same command again."
                )
        return [self.python, "-m", "pip", verb]

    def _run(self, command: list[str], env: Mapping[str, str]) -> Ended:
        return self.log.run(command, cwd=self.cwd, env=env)


def complaint(done: Ended) -> str:
    """Why uv or pip failed: pip's last line that names an error, else what uv draws as a tree."""
    lines = [line.strip(" ×╰─▶│") for line in done.text.splitlines()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    said = errors[-1:] or [line for line in lines if line and not line.startswith("Using ")]
    return without_credentials(" ".join(said)).removeprefix("error: ").rstrip(".")[:300]

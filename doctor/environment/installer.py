"""Installs packages into the examined Python: by uv where it is there, else by that Python's pip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from doctor.environment.command_line import Line, variables
from doctor.environment.mirrors import answering
from doctor.errors import DoctorError
from doctor.knowledge.tables import Tables
from doctor.planner.commands import Target, index_option, installer
from doctor.work.programs import Ended, Log, has_uv, with_own_path

QUICK = {
    "UV_HTTP_TIMEOUT": "10",
    "UV_HTTP_RETRIES": "1",
    "PIP_DEFAULT_TIMEOUT": "10",
    "PIP_RETRIES": "1",
}
"""Seconds without a byte, and tries, after which an index counts as unreachable."""


@dataclass(frozen=True)
class Index:
    """A Python index; without a URL the one that the tools are set to."""

    name: str
    url: str | None = None


OWN = Index("the Python index")


@dataclass(frozen=True)
class Installer:
    """uv or pip, on one interpreter."""

    python: str
    env: Mapping[str, str]
    log: Log
    cwd: Path

    def install(self, *words: str, index: Index = OWN) -> Ended:
        """Run `install` with these words."""
        return self._run("install", words, index)

    def uninstall(self, name: str) -> Ended:
        """Take a distribution out."""
        return self._run("uninstall", [name])

    def fetch(self, requirement: str, folder: Path, tables: Tables, *, deps: bool = False) -> Index:
        """Put a package into a folder of its own; from a mirror where need be.

        Args:
            deps: with what it requires.

        Returns:
            the index that gave it.

        Raises:
            DoctorError: no index gives it; names each with its reason.
        """
        words = [*([] if deps else ["--no-deps"]), "--target", str(folder), requirement]
        if not self._uv:
            words.append("--upgrade")  # else pip leaves a file that is there as it is
        reasons = []
        for index in self._indexes(tables):
            done = self._run("install", words, index, QUICK)
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
        yield OWN
        for row in answering(tables, "python"):
            yield Index(str(row["name"]), str(row["url"]))

    @property
    def _uv(self) -> bool:
        return has_uv(self.env)

    def _run(
        self,
        verb: str,
        words: Sequence[str],
        index: Index = OWN,
        settings: Mapping[str, str] | None = None,
    ) -> Ended:
        """Run uv or pip.

        Args:
            settings: variables for it alone.

        Raises:
            DoctorError: there is neither uv nor pip, and Python cannot bring pip either.
        """
        target = Target(self.python, uv=self._uv)
        if not target.uv:
            self._require_pip()
        named = index_option(target, index.url) if index.url else []
        return self._start(*installer(target, verb), *words, *named, settings=settings)

    def _require_pip(self) -> None:
        if self._start(self.python, "-m", "pip", "--version").status == 0:
            return
        done = self._start(self.python, "-m", "ensurepip")
        if done.status != 0:
            raise DoctorError(
                f"{self.python} has no pip and cannot make one ({done.last_line()}); install pip or uv, then "
                f"run the same command again."
            )

    def _start(self, *words: str, settings: Mapping[str, str] | None = None) -> Ended:
        line = Line(settings or {}, words)
        env = variables(line, with_own_path(self.env), None)
        return self.log.run(words, cwd=self.cwd, env=env)


def complaint(done: Ended) -> str:
    """Why uv or pip failed: pip's last line that names an error, else what uv draws as a tree."""
    lines = [line.strip(" ×╰─▶│") for line in done.lines]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    said = errors[-1:] or [line for line in lines if line and not line.startswith("Using ")]
    return " ".join(said).removeprefix("error: ").rstrip(".")[:300]

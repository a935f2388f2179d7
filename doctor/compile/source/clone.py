"""Gets PyTorch's source: a folder that the user names, or a clone that can be finished after any stop."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from doctor.compile.source.read_tree import missing_submodules
from doctor.errors import DoctorError
from doctor.knowledge.tables import Tables
from doctor.text.bounded import read_text
from doctor.work import files
from doctor.work.events import Reporter
from doctor.work.run import run

ASK_SECONDS = 20
"""For a mirror to say whether it has a tag."""

TRIES = 3
"""Of each step of a clone; what was fetched before stays."""

MARKER = "nanochat-doctor-clone"
"""In .git of a clone of ours, which may be finished without asking; holds the mirror that it came through."""


@dataclass(frozen=True)
class Origin:
    """Where a clone may come from.

    Attributes:
        url: of the repository.
        rewrite: (mirror, original) beginnings of addresses, so that submodules come from the mirror, too.
    """

    url: str
    rewrite: tuple[str, str] | None = None

    @property
    def options(self) -> list[str]:
        """For git, before its command."""
        return ["-c", f"url.{self.rewrite[0]}.insteadOf={self.rewrite[1]}"] if self.rewrite else []


def origins(tables: Tables) -> list[Origin]:
    """Where to clone from, in the order in which it is tried: PyTorch's own, mirrors of all its host, copies."""
    first, *copies = (str(row["url"]) for row in tables.rows("recipes", "origin"))
    mirrors = [
        Origin(first, (row["url"], row["instead_of"]))
        for row in tables.rows("mirrors", "mirror")
        if row["kind"] == "git" and first.startswith(row.get("instead_of", "\0"))
    ]
    return [Origin(first), *mirrors, *map(Origin, copies)]


def clone(
    folder: Path,
    ref: str,
    places: list[Origin],
    *,
    env: Mapping[str, str],
    log: Path,
    reporter: Reporter,
) -> None:
    """Have a tag's source in a folder, with all submodules; a clone that was stopped is finished.

    Raises:
        DoctorError: the folder holds something else, or no address answers, or git fails.
    """
    marker = folder / ".git" / MARKER
    if folder.exists() and any(folder.iterdir()):
        if not marker.exists() and not _nothing_but_begun(folder):
            raise DoctorError(
                f"{folder} is there and no clone of nanochat-doctor; move it away, or name it with "
                "--source."
            )
        if (folder / "CMakeLists.txt").exists() and not any(missing_submodules(folder)):
            return
    origin = _reachable(places, ref, env)
    url, git = origin.url, ["git", *origin.options]
    reporter.event("clone", f"Cloning {ref} from {url} …", url=url, ref=ref, folder=str(folder))
    # before git: a kill at any moment leaves a folder that is known for ours
    files.write(marker, "\n".join(origin.rewrite or ()))
    steps = [
        [*git, "init", "--quiet", "."],
        [*git, "config", "remote.origin.url", url],
        [*git, "fetch", "--quiet", "--depth", "1", url, f"+refs/tags/{ref}:refs/tags/{ref}"],
        [*git, "checkout", "--quiet", "--force", "--detach", f"refs/tags/{ref}"],
        [*git, "submodule", "sync", "--quiet", "--recursive"],
        [*git, "submodule", "update", "--init", "--recursive", "--force", "--depth", "1",
         "--jobs", str(min(8, (os.cpu_count() or 1) * 2))],
    ]  # fmt: skip
    for step in steps:
        _step(step, folder, env, log)


def _nothing_but_begun(folder: Path) -> bool:
    """Whether there is only a `git init` that was cut short: nothing that anyone could miss."""
    git = folder / ".git"
    if [entry.name for entry in folder.iterdir()] != [git.name] or git.is_symlink():
        return False
    kept = [git / "index", git / "packed-refs", git / "shallow"]
    stored = (path for part in ("objects", "refs") for path in (git / part).rglob("*"))
    return git.is_dir() and not any(path.is_file() for path in (*kept, *stored))


def mirrored(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Variables that send the build's own git to the mirror that the clone came through.

    PyTorch's build fetches NCCL from its usual address while it configures.
    """
    try:
        mirror, original = (read_text(folder / ".git" / MARKER) or "").split("\n")
        number = int(env.get("GIT_CONFIG_COUNT", "0"))
    except (OSError, ValueError):
        return {}
    return {
        "GIT_CONFIG_COUNT": str(number + 1),
        f"GIT_CONFIG_KEY_{number}": f"url.{mirror}.insteadOf",
        f"GIT_CONFIG_VALUE_{number}": original,
    }


def _step(step: list[str], folder: Path, env: Mapping[str, str], log: Path) -> None:
    heard: list[str] = []
    for _ in range(TRIES if "fetch" in step or "update" in step else 1):
        heard.clear()
        # a lock that a killed git left behind; ours is the only one in this tree
        for lock in folder.glob(".git/**/*.lock"):
            lock.unlink(missing_ok=True)
        mark = str(folder.resolve())
        if run(step, cwd=folder, env=env, log=log, mark=mark, heard=heard.append) == 0:
            return
    name = next(word for word in step[1:] if word != "-c" and not word.startswith("url."))
    said = next((line for line in reversed(heard) if line.strip()), "it says nothing")
    raise DoctorError(
        f"git {name} failed in {folder}: {said.strip()}; run it again, it goes on where it stopped. "
        f"The log: {log}"
    )


def _reachable(places: list[Origin], ref: str, env: Mapping[str, str]) -> Origin:
    """The first address that has the tag."""
    reasons = []
    for origin in places:
        url = (
            origin.rewrite[0] + origin.url.removeprefix(origin.rewrite[1])
            if origin.rewrite
            else origin.url
        )
        try:
            done = subprocess.run(
                [
                    "git",
                    *origin.options,
                    "ls-remote",
                    "--exit-code",
                    origin.url,
                    f"refs/tags/{ref}",
                ],
                env={**env, "GIT_TERMINAL_PROMPT": "0"},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=ASK_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            reasons.append(f"{url} gave no answer within {ASK_SECONDS} s")
            continue
        except OSError as error:
            raise DoctorError(
                "git is not installed; install it, or name a tree with --source."
            ) from error
        if done.returncode == 0:
            return origin
        said = (done.stderr.strip().splitlines() or [f"it has no tag {ref}"])[-1]
        reasons.append(f"{url}: {said}")
    raise DoctorError(
        f"PyTorch {ref} can be cloned from nowhere ({'; '.join(reasons)}); check the connection and "
        "the tag, or name a tree with --source."
    )

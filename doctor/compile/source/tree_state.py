"""In which state a source tree is, to the last changed line: by git, or by its files where it has none."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

from doctor.errors import DoctorError
from doctor.planner.build.tree import Tree
from doctor.text.bounded import read_text

SOURCE_SUFFIXES = frozenset(
    ".c .cc .cpp .cu .cuh .h .hpp .hh .py .txt .cmake .yaml .in .S .s .asm .toml .cfg".split()
)
GIT_SECONDS = 120

MISLEADING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY",
              "GIT_NAMESPACE", "GIT_PREFIX")  # fmt: skip
"""Set by git for its hooks: they name another repository than the one that is asked about."""


def git(path: Path, *arguments: str) -> str:
    """What a git command said.

    Raises:
        DoctorError: it failed, or git is not there: then nothing is known of the tree, which is not
            the same as a clean one.
    """
    env = {k: v for k, v in os.environ.items() if k not in MISLEADING} | {"LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(path), "-c", "core.quotePath=false", *arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=GIT_SECONDS,
            check=False,
        )
    except OSError as error:
        raise DoctorError(
            f"{path} is a git tree, and git cannot be started ({error.strerror}), so that its state is "
            "unknown; install git."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise DoctorError(
            f"git {arguments[0]} gave no answer within {GIT_SECONDS} s in {path}, so that its state is "
            "unknown; run it there by hand, or build a tree on a faster disk."
        ) from error
    if done.returncode:
        raise DoctorError(_refused(path, arguments[0], done.stderr))
    return done.stdout


def _refused(path: Path, command: str, said: str) -> str:
    """The sentence for a git command that failed."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reason = next(
        (line for line in lines if line.startswith(("fatal:", "error:"))), "no reason given"
    )
    if "dubious ownership" in said:
        cure = f"tell it that the tree is trusted: git config --global --add safe.directory {shlex.quote(str(path))}"
    else:
        cure = f"mend the tree (git -C {shlex.quote(str(path))} {command}), or clone it anew"
    return f"git {command} failed in {path} ({reason}), so that the state of the source is unknown; {cure}."


def git_state(path: Path, missing: Collection[str]) -> tuple[str | None, tuple[str, ...]]:
    """Commit, and what differs from it; submodules whose contents differ are among that.

    An archive has neither, also where it was unpacked inside some other repository.

    Args:
        missing: submodules that are not checked out, which is no difference.

    Raises:
        DoctorError: git cannot tell.
    """
    if not os.path.lexists(path / ".git"):
        return None, ()
    commit = git(path, "rev-parse", "--verify", "HEAD").strip()
    said = git(
        path, "status", "--porcelain=v1", "--untracked-files=all", "--ignore-submodules=untracked"
    )
    changed = [line[3:] for line in said.splitlines() if len(line) > 3]
    return commit, tuple(c for c in changed if c not in missing)


def state_hash(tree: Tree) -> str:
    """Identifies the source to the last changed line.

    Of a git tree: commit, differences (in submodules too), and untracked files by size and time; of
    any other: size and time of every source file. A build writes among those, so that once one has
    begun only the files count that were there before (see `remember_files`).
    """
    found = hashlib.sha256((tree.commit or "").encode())
    if tree.commit is not None:
        # as git itself would have it, whatever the user's settings make of it
        plain = ("--submodule=diff", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv")
        found.update(git(tree.path, "diff", "HEAD", *plain).encode(errors="surrogateescape"))
        others = git(tree.path, "ls-files", "--others", "--exclude-standard").splitlines()
        files: Iterator[Path] = (tree.path / name for name in sorted(others))
    else:
        known = _remembered(tree)
        files = iter(_source_files(tree.path) if known is None else known)
    for file in files:
        try:
            status = file.stat()
        except OSError:
            continue
        found.update(
            f"{file.relative_to(tree.path)} {status.st_size} {status.st_mtime_ns}".encode()
        )
    return found.hexdigest()


FILES = ".nanochat-doctor.files"
"""In the build folder of a tree without git: its source files before the first build."""


def remember_files(tree: Tree) -> None:
    """Write down what belongs to the source, before a build adds to it.

    Raises:
        OSError: the build folder cannot be written.
    """
    if tree.commit is None:
        names = (str(file.relative_to(tree.path)) for file in _source_files(tree.path))
        (tree.build / FILES).write_text(
            "\n".join(names), encoding="utf-8", errors="surrogateescape"
        )


def _remembered(tree: Tree) -> list[Path] | None:
    text = read_text(tree.build / FILES)
    if text is None:
        return None
    return [tree.path / name for name in text.splitlines()]


WRITTEN = (
    "build",
    "build.aside",
    "dist",
    "torch/lib",
    "torch/include",
    "torch/share",
    "torch/bin",
    "torch.egg-info",
)
"""Folders that a build writes to; an archive's tree has nothing of the source in them but torch/lib."""


def _source_files(path: Path) -> list[Path]:
    found = []
    for folder, folders, names in os.walk(path):
        inside = os.path.relpath(folder, path)
        folders[:] = [
            f
            for f in folders
            if os.path.normpath(f"{inside}/{f}") not in WRITTEN and f not in ("__pycache__", ".git")
        ]
        found += [
            Path(folder, name)
            for name in names
            if os.path.splitext(name)[1] in SOURCE_SUFFIXES and name != "version.py"
        ]
    return sorted(found)

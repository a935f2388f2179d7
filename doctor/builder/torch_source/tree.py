"""What a PyTorch source tree says of itself: version, how it is built, what it wants, what it lacks."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doctor.builder.torch_source.files import read_text
from doctor.errors import DoctorError
from doctor.tables import Row, Tables
from doctor.toml import tomllib
from doctor.versions import older

BUILD = "build"
"""PyTorch's build folder; its name is fixed in tools/setup_helpers/env.py."""

CMAKE_FLOOR = re.compile(
    r"^\s*cmake_minimum_required\s*\(\s*VERSION\s+([\d.]+)", re.IGNORECASE | re.MULTILINE
)
GCC_FLOOR = re.compile(
    r"CMAKE_COMPILER_IS_GNUCXX\s+AND\s+CMAKE_CXX_COMPILER_VERSION\s+VERSION_LESS\s+([\d.]+)"
)
PYTHON_FLOOR = re.compile(r"python_min_version\s*=\s*\((\d+),\s*(\d+)")
AT_LEAST = re.compile(r">=\s*([\d.]+)")
CMAKE_PROJECT = re.compile(r"project\s*\(\s*[\"${]*(\w+)", re.IGNORECASE)
SUBMODULE_PATH = re.compile(r"^\s*path\s*=\s*(\S+)", re.MULTILINE)
PART_OF = re.compile(
    r"^[^#\n]*add_subdirectory\(\"?\$\{[^}]*\}/(?:\.\./)?(third_party/[\w.-]+)", re.MULTILINE
)
"""Where there is no .gitmodules, what cmake/Dependencies.cmake takes in tells what belongs there."""

SOURCE_SUFFIXES = frozenset(
    ".c .cc .cpp .cu .cuh .h .hpp .hh .py .txt .cmake .yaml .in .S .s .asm .toml .cfg".split()
)
GIT_SECONDS = 120


@dataclass(frozen=True)
class Tree:
    """A source tree. What it does not say is None.

    Attributes:
        commit: of git; None for a tree from an archive.
        changed: files that differ from the commit, or are not in it.
        missing: submodules that are empty or not there.
        cmake: the oldest CMake it takes.
        requires: distributions, with versions, that the Python needs that builds it.
        old_projects: projects below third_party that ask for a CMake before 3.5.
        expected: it is not there yet; what is said of it comes from build/recipes.toml.
    """

    path: Path
    version: str
    driver: Row
    commit: str | None
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    cmake: str | None
    gcc: str | None
    python: str | None
    requires: tuple[str, ...]
    old_projects: tuple[str, ...]
    expected: bool = False

    @property
    def build(self) -> Path:
        """Where its objects lie."""
        return self.path / BUILD

    def told_by(self, file: str) -> str:
        """Where it is told what a file of the tree would say."""
        return "build/recipes.toml" if self.expected else f"{self.path}/{file}"


def read_tree(path: Path, tables: Tables) -> Tree:
    """Look at a source tree.

    Raises:
        DoctorError: there is none, it is cut short, or it is no PyTorch's.
    """
    if not path.is_dir():
        raise DoctorError(f"There is no folder {path}; name a PyTorch source tree with --source.")
    version = _text(path / "version.txt").strip().partition("\n")[0]
    cmake, project = _text(path / "CMakeLists.txt"), _project(path)
    if not re.match(r"\d+\.\d+", version) or not _is_torch(cmake, project):
        half = (path / ".git").exists() and not (path / "CMakeLists.txt").exists()
        raise DoctorError(
            f"{path} is a clone that was cut short; without --source it is finished, or run "
            "`git checkout HEAD -- .` in it."
            if half
            else f"{path} is no PyTorch source tree: it has no version.txt and CMakeLists.txt of one. "
            "Name the folder that holds them."
        )
    python = PYTHON_FLOOR.search(_text(path / "setup.py"))
    required = AT_LEAST.search(str(_table(project, "project").get("requires-python", "")))
    commit, changed = _git_state(path)
    driver = _driver(path, tables)
    asked = _table(project, "build-system").get("requires")
    gcc, floor = GCC_FLOOR.search(cmake), CMAKE_FLOOR.search(cmake)
    return Tree(
        path=path,
        version=version,
        driver=driver,
        commit=commit,
        changed=changed,
        missing=tuple(missing_submodules(path)),
        cmake=floor[1] if floor else None,
        gcc=gcc[1] if gcc else None,
        python=f"{python[1]}.{python[2]}" if python else required[1] if required else None,
        requires=(*map(str, asked if isinstance(asked, list) else ()), *driver["needs"]),
        old_projects=tuple(_old_projects(path)),
    )


def expected_tree(path: Path, version: str, tables: Tables) -> Tree | None:
    """What is known of a release before it is cloned; None for one that is older than all rows."""
    rows = [r for r in tables.rows("recipes", "tree") if not older(version, r["since"])]
    if not rows:
        return None
    row = rows[-1]
    driver = next(d for d in tables.rows("recipes", "driver") if d["name"] == row["driver"])
    return Tree(
        path=path,
        version=version,
        driver=driver,
        commit=None,
        changed=(),
        missing=(),
        cmake=row["cmake"],
        gcc=row["gcc"],
        python=None,
        requires=(*row["requires"], *driver["needs"]),
        old_projects=(),
        expected=True,
    )


def _text(path: Path) -> str:
    return read_text(path, "replace") or ""


def _project(path: Path) -> dict[str, Any]:
    """pyproject.toml; empty where there is none, or it is damaged."""
    try:
        found: dict[str, Any] = tomllib.loads(_text(path / "pyproject.toml"))
    except (tomllib.TOMLDecodeError, RecursionError):
        return {}
    return found


def _table(project: dict[str, Any], name: str) -> dict[str, Any]:
    found = project.get(name)
    return found if isinstance(found, dict) else {}


def _is_torch(cmake: str, project: dict[str, Any]) -> bool:
    """Up to 2.14 CMakeLists.txt names the project; later it takes pyproject.toml's name."""
    named = {name.lower() for name in CMAKE_PROJECT.findall(cmake)}
    return "torch" in named or (
        "skbuild_project_name" in named and _table(project, "project").get("name") == "torch"
    )


def _driver(path: Path, tables: Tables) -> Row:
    """How this tree is built: the first row of build/recipes.toml whose file says so."""
    for row in tables.rows("recipes", "driver"):
        if row["contains"] in _text(path / row["file"]):
            return row
    known = " or ".join(f"{r['contains']} in {r['file']}" for r in tables.rows("recipes", "driver"))
    raise DoctorError(
        f"{path} is built in a way that is not known here (there is no {known}); use a PyTorch "
        "from 1.8 on."
    )


def missing_submodules(path: Path) -> Iterator[str]:
    """Submodules that are not checked out; without .gitmodules, projects that CMake would take in."""
    listed = SUBMODULE_PATH.findall(_text(path / ".gitmodules"))
    used = PART_OF.findall(_text(path / "cmake" / "Dependencies.cmake"))
    for name in listed or dict.fromkeys(used):
        folder = path / name
        try:
            if not any(entry.name != ".git" for entry in os.scandir(folder)):
                yield name
        except OSError:
            yield name
            continue
        yield from (
            f"{name}/{inner}"
            for inner in SUBMODULE_PATH.findall(_text(folder / ".gitmodules"))
            if (folder / inner).is_dir() and not any((folder / inner).iterdir())
        )


def _old_projects(path: Path) -> Iterator[str]:
    for file in sorted(path.glob("third_party/*/CMakeLists.txt")) + sorted(
        path.glob("third_party/*/cmake/CMakeLists.txt")
    ):
        floor = CMAKE_FLOOR.search(_text(file))
        if floor and tuple(map(int, floor[1].split(".")[:2])) < (3, 5):
            yield str(file.parent.relative_to(path))


# --- git ---------------------------------------------------------------------------------------


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


def _git_state(path: Path) -> tuple[str | None, tuple[str, ...]]:
    """Commit, and what differs from it; submodules whose contents differ are among that.

    An archive has neither, also where it was unpacked inside some other repository.
    """
    if not os.path.lexists(path / ".git"):
        return None, ()
    commit = git(path, "rev-parse", "--verify", "HEAD").strip()
    said = git(
        path, "status", "--porcelain=v1", "--untracked-files=all", "--ignore-submodules=untracked"
    )
    changed = [line[3:] for line in said.splitlines() if len(line) > 3]
    empty = set(missing_submodules(path))
    return commit, tuple(c for c in changed if c not in empty)


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

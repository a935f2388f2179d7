"""What a PyTorch source tree says of itself: version, how it is built, what it wants, what it lacks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from doctor.compile.source.tree_state import git_state
from doctor.errors import DoctorError
from doctor.knowledge.tables import Row, Tables
from doctor.planner.build.tree import Tree
from doctor.text.bounded import read_text
from doctor.text.toml import tomllib

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
    missing = tuple(missing_submodules(path))
    commit, changed = git_state(path, missing)
    driver = _driver(path, tables)
    asked = _table(project, "build-system").get("requires")
    gcc, floor = GCC_FLOOR.search(cmake), CMAKE_FLOOR.search(cmake)
    return Tree(
        path=path,
        version=version,
        driver=driver,
        commit=commit,
        changed=changed,
        missing=missing,
        cmake=floor[1] if floor else None,
        gcc=gcc[1] if gcc else None,
        python=f"{python[1]}.{python[2]}" if python else required[1] if required else None,
        requires=(*map(str, asked if isinstance(asked, list) else ()), *driver["needs"]),
        old_projects=tuple(_old_projects(path)),
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

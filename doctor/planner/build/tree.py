"""What is known of a PyTorch source tree: read from one, or of a release that is not there yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from doctor.knowledge.tables import Row, Tables
from doctor.knowledge.versions import older

BUILD = "build"
"""PyTorch's build folder; its name is fixed in tools/setup_helpers/env.py."""


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

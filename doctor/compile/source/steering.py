"""Variables of the user's own that PyTorch's build reads: which of them a build depends on.

Both of PyTorch's builders hand every variable that begins with BUILD_ or USE_ on to CMake, and systems for continuous
integration set many such: BUILD_NUMBER differs from run to run, and changes nothing. So a name counts where the table
knows it, or where the tree's own files know it; whatever else has such a beginning does not reach the build at all, and
no secret of a CI system gets into a receipt.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from doctor.compile.source.tree_state import WRITTEN
from doctor.knowledge.tables import Tables
from doctor.text.bounded import read_text

FORWARDED = ("BUILD_", "USE_")
"""Beginnings of names that are handed on to CMake whatever they mean."""

WORD = re.compile(r"\b(?:BUILD|USE)_\w+")
READING = re.compile(r"CMakeLists\.txt|.*\.cmake(\.in)?|setup\.py|pyproject\.toml")
"""Files of a tree that may read one; tools/setup_helpers do, too."""


def counted(env: Mapping[str, str], tree: Path, tables: Tables) -> dict[str, str]:
    """Variables of the environment that objects and wheel depend on, beside the recipe's."""
    return {name: env[name] for name, effect in _effects(env, tree, tables) if effect == "product"}


def without_effect(env: Mapping[str, str], tree: Path, tables: Tables) -> list[str]:
    """Variables that would be handed on to CMake, and that nothing there reads."""
    return [name for name, effect in _effects(env, tree, tables) if effect == "none"]


def _effects(env: Mapping[str, str], tree: Path, tables: Tables) -> Iterator[tuple[str, str]]:
    """Each variable of the environment that may steer the build, with its effect."""
    rows = tables.rows("recipes", "steering")
    known: set[str] | None = None
    for name in sorted(env):
        patterns = (row["effect"] for row in rows for p in row["names"] if fnmatchcase(name, p))
        effect = next(patterns, None)
        if effect is None and name.startswith(FORWARDED):
            # asked for seldom: the tables know the usual ones
            known = _words(tree) if known is None else known
            effect = "product" if name in known else "none"
        if effect is not None:
            yield name, effect


def _words(tree: Path) -> set[str]:
    """Names with such a beginning in a tree's CMake files, third_party among them."""
    found: set[str] = set()
    for folder, folders, names in os.walk(tree):
        inside = os.path.relpath(folder, tree)
        folders[:] = [
            f for f in folders if f != ".git" and os.path.normpath(f"{inside}/{f}") not in WRITTEN
        ]
        helpers = inside == os.path.join("tools", "setup_helpers")
        for name in names:
            if READING.fullmatch(name) or (helpers and name.endswith(".py")):
                text = read_text(Path(folder, name), "replace") or ""
                found.update(WORD.findall(text))
    return found

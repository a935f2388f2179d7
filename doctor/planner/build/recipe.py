"""Variables that make PyTorch's build do what was chosen: rows of build/recipes.toml."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from doctor.facts import Facts, Host, Toolkit
from doctor.knowledge.tables import Row, Tables
from doctor.knowledge.versions import older, parts
from doctor.planner.build.draft import Draft

SWITCHES = {
    "ON": ("ON", "1", "YES", "TRUE", "Y"),
    "OFF": ("OFF", "0", "NO", "FALSE", "N"),
}
"""Spellings of a switch that PyTorch's build knows (2.6.0: tools/setup_helpers/env.py)."""


def meaning(value: str) -> str:
    """A variable's value, with one spelling for each position of a switch."""
    return next((m for m, spellings in SWITCHES.items() if value.upper() in spellings), value)


def settings(
    rows: Sequence[Row], conditions: Collection[str], values: Mapping[str, str], version: str | None
) -> dict[str, str]:
    """Variables of the build's environment.

    Args:
        rows: [[setting]] of build/recipes.toml.
        conditions: `cuda` or `cpu`, `libuv` or `no-libuv`, … as the rows' `when` names them.
        values: for the placeholders in the rows.
        version: of the PyTorch tree; None takes the rows of every version.
    """
    return {
        row["name"]: row["value"].format_map(values)
        for row in rows
        if set(row["when"]) <= set(conditions) and serves(row, version)
    }


def serves(row: Row, version: str | None) -> bool:
    """Whether a row is for a PyTorch version (`since` and `until`, the latter excluded)."""
    if version is None:
        return True
    after = "since" in row and older(version, row["since"])
    return not after and not ("until" in row and not older(version, row["until"]))


def headers_unknown(host: Host | None) -> bool:
    """Whether a tree below --root has no headers at all, so that a missing one means nothing."""
    return host is None or not host.usr_include


def compilable(facts: Facts, name: str, toolkit: Toolkit | None = None) -> bool:
    """Whether NVIDIA's library of a name is on the machine, or in the toolkit, with its header."""
    if toolkit is not None and f"{name.removeprefix('lib')}.h" in toolkit.headers:
        return True
    libraries = facts.nvidia.libraries if facts.nvidia else ()
    unknown = bool(facts.root) and headers_unknown(facts.host)
    return any(lib.name.startswith(name) and (lib.header or unknown) for lib in libraries)


def environment(
    facts: Facts,
    tables: Tables,
    chosen: Draft,
    *,
    version: str | None = None,
    prefix: str = "",
    cmake: str | None = None,
) -> dict[str, str]:
    """Variables that make PyTorch's build do what was chosen.

    Args:
        version: of the tree.
        prefix: folders for CMAKE_PREFIX_PATH, `;` between them.
        cmake: version of the CMake that will be run; None takes that of the facts.
    """
    tools = facts.host.tools if facts.host else {}
    launcher = next((tools[name].path for name in ("sccache", "ccache") if name in tools), "")
    if cmake is None and "cmake" in tools:
        cmake = tools["cmake"].version
    conditions = {
        "cuda" if chosen.cuda else "cpu",
        "libuv" if chosen.libuv else "no-libuv",
        "cudnn" if compilable(facts, "libcudnn", chosen.toolkit) else "no-cudnn",
        "system-nccl" if compilable(facts, "libnccl", chosen.toolkit) else "bundled-nccl",
        *(["launcher"] if launcher else []),
        *(["cc"] if chosen.compiler else []),
        *(["prefix"] if prefix else []),
        *(["cmake-4"] if cmake and parts(cmake) >= (4,) else []),
    }
    values = {
        "archs": ";".join(chosen.archs),
        "cuda_home": chosen.toolkit.path if chosen.toolkit else "",
        "cc": chosen.compiler.cc if chosen.compiler else "",
        "cxx": chosen.compiler.cxx if chosen.compiler else "",
        "launcher": launcher,
        "prefix": prefix,
        "jobs": str(chosen.jobs.wide),
    }
    return settings(tables.rows("recipes", "setting"), conditions, values, version)

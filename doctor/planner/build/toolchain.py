"""Which CUDA toolkit and which host compiler a build takes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from doctor.facts import Nvidia, Tool, Toolkit
from doctor.knowledge.tables import Row, Tables
from doctor.knowledge.versions import older, parts
from doctor.planner.build.takes import row_for, target
from doctor.planner.build.wish import base, ending


def choose_toolkit(
    nvidia: Nvidia | None, archs: Sequence[str], tables: Tables, cuda_home: str | None = None,
    torch: str | None = None,
) -> Toolkit | None:  # fmt: skip
    """The toolkit to build with: the usual one, or the newest other that knows all architectures.

    Args:
        cuda_home: what the user named; nothing else is then taken.
        torch: version that is built: a toolkit that it takes is preferred.
    """
    toolkits = [t for t in nvidia.toolkits if t.nvcc] if nvidia else []
    if cuda_home is not None:
        return next((t for t in toolkits if t.path == cuda_home.rstrip("/")), None)
    usual = next((t for t in toolkits if nvidia and t.nvcc == nvidia.nvcc), None)
    rest = sorted(toolkits, key=lambda t: parts(t.version or "0"), reverse=True)
    order = [usual, *rest] if usual else rest
    knowing = [t for t in order if not unknown_archs(t, archs, tables)]
    best = [*(t for t in knowing if _taken(t, torch, tables)), *knowing, *order]
    return best[0] if best else None


def _taken(toolkit: Toolkit, torch: str | None, tables: Tables) -> bool:
    row = row_for(torch, tables) if torch else None
    return not (row and toolkit.version and older(toolkit.version, row["min_cuda"]))


def unknown_archs(toolkit: Toolkit, archs: Sequence[str], tables: Tables) -> list[str]:
    """Architectures that a toolkit's nvcc does not compile for; none where its list is not known."""
    if not toolkit.archs:
        return []
    found = []
    for arch in archs:
        row, cuda = target(ending(arch), tables), toolkit.version
        if base(arch) not in toolkit.archs or (row and cuda and older(cuda, row["min_cuda"])):
            found.append(arch)
    return found


@dataclass(frozen=True)
class Compiler:
    """A C and a C++ compiler of one kind and version."""

    kind: str
    """`gcc` or `clang`."""
    version: str
    cc: str
    cxx: str


def accepts(row: Row | None, kind: str, version: str) -> bool:
    """Whether nvcc takes a host compiler; true where the toolkit has no row.

    Args:
        row: of build/cuda.toml, with gcc_max, clang_max and perhaps gcc_min (major numbers).
    """
    limit, floor = (row.get(f"{kind}_{end}") if row else None for end in ("max", "min"))
    major = parts(version)[:1]
    return not ((limit and major > parts(limit)[:1]) or (floor and major < parts(floor)[:1]))


def compilers(tools: Mapping[str, Tool]) -> list[Compiler]:
    """Compilers among the tools of a machine, gcc first."""
    found = []
    gcc, gxx, clang = (tools.get(name) for name in ("gcc", "g++", "clang"))
    if gxx and gxx.version:
        cc = gcc.path if gcc and gcc.version == gxx.version else re.sub(r"g\+\+", "gcc", gxx.path)
        found.append(Compiler("gcc", gxx.version, cc, gxx.path))
    if clang and clang.version:
        found.append(Compiler("clang", clang.version, clang.path, f"{clang.path}++"))
    return found

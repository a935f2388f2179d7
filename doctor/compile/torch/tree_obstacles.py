"""What stands in the way of a build because of the source tree: submodules, versions, packages, dates."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator

from doctor.compile.source.build_tools import Programs
from doctor.errors import Unknown
from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, WARNING, Finding
from doctor.knowledge.tables import Tables
from doctor.knowledge.versions import minor, older, parts
from doctor.machine.system import System
from doctor.planner.build.draft import Draft
from doctor.planner.build.obstacles import compiler_install
from doctor.planner.build.recipe import meaning
from doctor.planner.build.tree import Tree
from doctor.text.quantities import disk_of_mib

TENSORPIPE = "third_party/tensorpipe"


def tree_obstacles(
    c: Context, system: System, tables: Tables, chosen: Draft, tree: Tree, programs: Programs
) -> Iterator[Finding]:
    """All findings of a tree."""
    # then the system's libraries stand in for third_party
    own = meaning(system.env.get("USE_SYSTEM_LIBS", "")) == "ON"
    yield from _submodules(c, tree, own)
    if own and chosen.libuv:
        yield from _libuv(c, tree)
    yield from _compiler_floor(c, tree, chosen)
    yield from _python(c, tree)
    yield from _cuda(c, tree, chosen)
    yield from _distributions_missing(c, tree, programs)
    if not tree.expected:
        yield from _disk(c, system, tree, tables)
        yield from _dates(c, system, tree)


def _submodules(c: Context, tree: Tree, own: bool) -> Iterator[Finding]:
    if not tree.missing:
        return
    names = joined(tree.missing[:5]) + (
        f" and {len(tree.missing) - 5} more" if len(tree.missing) > 5 else ""
    )
    archive = tree.commit is None
    yield c.finding(
        "build.submodules-missing",
        WARNING if own else ERROR,
        f"Submodules of {tree.path} are empty: {names}."
        + (
            " It is an archive without them, and no git tree that could fetch them."
            if archive
            else ""
        ),
        [f"{tree.path}/{name}: empty" for name in tree.missing[:5]],
        "Clone it: build-torch does so without --source."
        if archive
        else "Fetch them; build-torch does so by itself in its own clones.",
        ["nanochat-doctor build-torch"]
        if archive
        else [
            f"git -C {shlex.quote(str(tree.path))} submodule update --init --recursive --depth 1 --jobs 8"
        ],
    )


def _libuv(c: Context, tree: Tree) -> Iterator[Finding]:
    """Where the system's TensorPipe stands in for the submodule, the build goes through, without libuv."""
    if not any(name.startswith(TENSORPIPE) for name in tree.missing):
        return
    yield c.finding(
        "build.submodules-missing",
        ERROR,
        f"libuv comes with {TENSORPIPE}, which is empty: with the system's TensorPipe this torch "
        "would be built without it.",
        [f"{tree.path}/{TENSORPIPE}: empty", "cmake/Dependencies.cmake: TORCH_USE_LIBUV"],
        "Fetch that submodule with its own, or build with --no-libuv.",
    )


def _compiler_floor(c: Context, tree: Tree, chosen: Draft) -> Iterator[Finding]:
    compiler = chosen.compiler
    if compiler is None or compiler.kind != "gcc" or not tree.gcc:
        return
    if older(compiler.version, tree.gcc):
        yield c.finding(
            "build.compiler-too-old",
            ERROR,
            f"{compiler.kind} {compiler.version} is older than {tree.gcc}, the oldest that PyTorch "
            f"{tree.version} takes.",
            [
                f"{compiler.cxx}: {compiler.version}",
                f"{tree.told_by('CMakeLists.txt')}: {tree.gcc}",
            ],
            "Install a newer one beside it; build-torch then takes it by itself.",
            compiler_install(c, str(parts(tree.gcc)[0] + 2)),
        )


def _python(c: Context, tree: Tree) -> Iterator[Finding]:
    python = c.facts.python
    if python is None or python.version is None:
        return
    evidence = [f"{python.executable}: Python {python.version}", f"{tree.path}: {tree.version}"]
    if tree.python and older(python.version, tree.python):
        yield c.finding(
            "host.python-too-old",
            ERROR,
            f"Python {python.version} is older than {tree.python}, the oldest that PyTorch "
            f"{tree.version} takes.",
            evidence,
            f"Build with Python {tree.python} or newer, named with --python.",
        )
    rows = [r for r in c.tables.rows("torch", "release") if r["torch"] == minor(tree.version)]
    newest = max((p for row in rows for p in row["pythons"]), key=parts, default=None)
    if newest and older(newest, minor(python.version)):
        yield c.finding(
            "host.python-too-new",
            WARNING,
            f"PyTorch {minor(tree.version)} was released for Python up to {newest}, and this is "
            f"{python.version}: it may not compile.",
            [*evidence, "build/torch.toml"],
            f"Build with Python {newest}, named with --python, or take a newer PyTorch.",
        )
    numpy = python.packages.get("numpy")
    if rows and numpy and parts(numpy) >= (2,) and not rows[0].get("numpy2", True):
        yield c.finding(
            "torch.version-conflict",
            WARNING,
            f"NumPy {numpy} is installed, and PyTorch {minor(tree.version)} knows NumPy 1 only.",
            [f"numpy {numpy}", "build/torch.toml"],
            "Install NumPy 1 into the Python that builds.",
            [c.pip_install("numpy<2")],
        )


def _cuda(c: Context, tree: Tree, chosen: Draft) -> Iterator[Finding]:
    """A toolkit of a major version that this PyTorch was never released for."""
    toolkit = chosen.toolkit
    wheels = [
        r for r in c.tables.rows("torch", "wheel") if minor(r["torch"]) == minor(tree.version)
    ]
    newest = max((str(r["cuda"]) for r in wheels if r.get("cuda")), key=parts, default=None)
    if toolkit is None or toolkit.version is None or newest is None:
        return
    if parts(toolkit.version)[0] > parts(newest)[0]:
        yield c.finding(
            "cuda.toolkit-mismatch",
            WARNING,
            f"PyTorch {minor(tree.version)} was released for CUDA up to {newest}, and {toolkit.path} "
            f"is CUDA {toolkit.version}: it may not compile.",
            [f"{toolkit.nvcc}: {toolkit.version}", "build/torch.toml"],
            f"Take a newer PyTorch, or a toolkit of CUDA {parts(newest)[0]} with --cuda-home.",
        )


def _distributions_missing(c: Context, tree: Tree, programs: Programs) -> Iterator[Finding]:
    """What pyproject.toml asks for; pip would install it in an environment of its own, we do not."""
    from packaging.requirements import InvalidRequirement, Requirement

    if programs.distributions is None:
        return
    missing = []
    present = {"cmake": programs.cmake, "ninja": programs.ninja}
    for text in tree.requires:
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            continue
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if (wanted.marker and not wanted.marker.evaluate()) or present.get(name):
            continue
        have = programs.distributions.get(name)
        if have is None or not wanted.specifier.contains(have, prereleases=True):
            missing.append(text)
    if missing:
        python = c.facts.python
        yield c.finding(
            "build.dependency-missing",
            ERROR,
            f"{python.executable if python else 'This Python'} lacks what PyTorch {tree.version} is "
            f"built with: {joined(missing)}.",
            [f"{tree.told_by('pyproject.toml')}: {', '.join(tree.requires)}"],
            "Install it into that environment.",
            [c.pip_install(*missing)],
        )


def _disk(c: Context, system: System, tree: Tree, tables: Tables) -> Iterator[Finding]:
    try:
        free = system.space(str(tree.path))[1] / (1 << 30)
    except Unknown:
        return
    needed = float(tables.rows("recipes", "cost")[0]["disk_gb"])
    already = any(tree.build.glob("*"))
    if free < (needed / 4 if already else needed):
        yield c.finding(
            "host.disk-full",
            WARNING,
            f"{disk_of_mib(free * 1024)} are free at {tree.path}; the objects and libraries of a whole PyTorch "
            f"take about {disk_of_mib(needed * 1024)} with its source.",
            [f"free space at {tree.path}: {disk_of_mib(free * 1024)}"],
            "Free space there, or move the tree to a larger disk.",
        )


def _dates(c: Context, system: System, tree: Tree) -> Iterator[Finding]:
    """ninja goes by the clock: a plan that is older than a file from the future is never up to date."""
    modified = system.mtime(str(tree.path / "CMakeLists.txt"))
    if modified is not None and modified > time.time() + 60:
        ahead = (modified - time.time()) / 60
        yield c.finding(
            "build.failed",
            ERROR,
            f"CMakeLists.txt of {tree.path} is dated {ahead:.0f} min in the future: the clock was set "
            "back, and ninja would configure for ever.",
            [f"{tree.path}/CMakeLists.txt"],
            "Set the clock right, or date the files to now.",
            [f"find {shlex.quote(str(tree.path))} -newermt now -exec touch {{}} +"],
        )

"""What stands in the way of a build before the first object: all of it at once, each with its cure.

Planning tells it from facts; here the tree and the programs that would be run are looked at, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from doctor.compile.source.build_tools import Programs
from doctor.compile.torch.tree_obstacles import tree_obstacles
from doctor.facts import Facts
from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, WARNING, Finding
from doctor.knowledge.tables import Tables
from doctor.knowledge.versions import older, parts
from doctor.machine.system import System
from doctor.planner.build.draft import Draft
from doctor.planner.build.obstacles import obstacles
from doctor.planner.build.recipe import compilable, serves
from doctor.planner.build.tree import Tree

OPEN_FILES_LOW = 1024
"""ninja opens three descriptors a job, the linker one for each of 8,000 objects."""

BLAS_HEADERS = ("cblas.h", "openblas/cblas.h", "openblas-pthread/cblas.h", "mkl.h", "mkl/mkl.h")


def preflight(
    system: System,
    facts: Facts,
    tables: Tables,
    chosen: Draft,
    tree: Tree | None,
    programs: Programs,
) -> list[Finding]:
    """All findings, errors first.

    Args:
        tree: None where nothing is known of it.
    """
    c = Context(facts, tables)
    torch = tree.version if tree else None
    found = [*obstacles(facts, tables, chosen, torch), *_programs(c, tree, programs), *_limits(c)]
    found += _libraries(c, system, chosen)
    if tree is not None:
        found += tree_obstacles(c, system, tables, chosen, tree, programs)
    return sorted(found, key=lambda f: (f.severity != ERROR, tables.code(f.code)["order"]))


def _programs(c: Context, tree: Tree | None, programs: Programs) -> Iterator[Finding]:
    if programs.cmake is None:
        yield c.finding(
            "build.dependency-missing",
            ERROR,
            "There is no CMake, neither beside the Python that builds nor on the PATH.",
            ["no cmake"],
            "Install it into the Python environment, or from the distribution.",
            [c.pip_install("cmake")],
        )
    if programs.ninja is None:
        yield c.finding(
            "build.ninja-missing",
            ERROR,
            "There is no ninja; progress, pools and resuming all depend on it.",
            ["no ninja"],
            "Install it into the Python environment, or from the distribution.",
            [c.pip_install("ninja")],
        )
    version = programs.cmake_version
    if tree is None or version is None:
        return
    if tree.cmake and older(version, tree.cmake):
        yield c.finding(
            "build.cmake-too-old",
            ERROR,
            f"CMake {version} at {programs.cmake} is older than {tree.cmake}, the oldest that "
            f"PyTorch {tree.version} takes.",
            [f"{programs.cmake}: {version}", f"{tree.told_by('CMakeLists.txt')}: {tree.cmake}"],
            "Install a newer one into the Python environment.",
            [c.pip_install(f"cmake>={tree.cmake}")],
        )
    rows = c.tables.rows("recipes", "setting")
    helped = any("cmake-4" in row["when"] and serves(row, tree.version) for row in rows)
    if parts(version) >= (4,) and tree.old_projects:
        yield c.finding(
            "build.cmake-policy",
            WARNING if helped else ERROR,
            f"CMake {version} takes no project written for a CMake before 3.5, and "
            f"{joined(tree.old_projects[:3])} below third_party "
            f"{'is' if len(tree.old_projects) == 1 else 'are'} such."
            + (" CMAKE_POLICY_VERSION_MINIMUM=3.5 is set for the build." if helped else ""),
            [f"{programs.cmake}: {version}"],
            "If it is refused all the same, install a CMake below 4.",
            [c.pip_install("cmake<4")],
        )


def _limits(c: Context) -> Iterator[Finding]:
    host = c.facts.host
    if host is not None and host.libc == "musl":
        yield c.finding(
            "host.glibc-too-old",
            WARNING,
            "This system uses musl; PyTorch is neither written for it nor tested with it.",
            [f"{host.distro_name or 'the system'}: musl"],
            "Build in a distribution with glibc, or in a container of one.",
        )
    if host is None or host.open_files_soft is None or host.open_files_soft >= OPEN_FILES_LOW:
        return
    yield c.finding(
        "host.open-files-limit",
        WARNING,
        f"A process may open {host.open_files_soft} files, and linking libtorch opens thousands.",
        [f"ulimit -n: {host.open_files_soft}"],
        "Raise the limit in the shell that starts the build.",
        [f"ulimit -n {min(host.open_files_hard or 65536, 65536)}"],
    )


def _libraries(c: Context, system: System, chosen: Draft) -> Iterator[Finding]:
    """What PyTorch is built without when it is not found, which is seldom what is wanted."""
    if chosen.cuda and not compilable(c.facts, "libcudnn", chosen.toolkit):
        yield c.finding(
            "build.dependency-missing",
            WARNING,
            "cuDNN is not installed outside of Python environments with its headers: this torch "
            "will be built without it, and convolutions are slow. Transformers do not need it.",
            ["no libcudnn.so.9 for the loader, or no cudnn.h"],
            "Install NVIDIA's package of it for this CUDA, or go on without.",
        )
    host = c.facts.host
    if host is None or host.os != "Linux" or not host.usr_include:
        return
    prefixes = ["/usr/include", "/usr/local/include", f"/usr/include/{host.arch}-linux-gnu"]
    if c.facts.python and c.facts.python.prefix:
        prefixes.append(f"{c.facts.python.prefix}/include")
    if not any(system.is_file(f"{p}/{name}") for p in prefixes for name in BLAS_HEADERS):
        yield c.finding(
            "build.dependency-missing",
            WARNING,
            "No BLAS with its headers was found (OpenBLAS, MKL): matrix products on the CPU will be "
            "slow, and torch.linalg on the CPU will not work.",
            [f"none of {', '.join(BLAS_HEADERS)} below {', '.join(prefixes)}"],
            "Install one.",
            c.system_install("blas"),
        )


def stops(findings: Sequence[Finding]) -> bool:
    """Whether any of them is an error."""
    return any(finding.severity == ERROR for finding in findings)

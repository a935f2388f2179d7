"""What stands in the way of a build before the first object: all of it at once, each with its cure.

Planning tells it from facts; here the tree and the programs that would be run are looked at, too.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from doctor.builder.torch_source.draft import Draft
from doctor.builder.torch_source.obstacles import compiler_install, obstacles
from doctor.builder.torch_source.recipe import serves
from doctor.builder.torch_source.toolchain import Compiler
from doctor.builder.torch_source.tree import Tree
from doctor.errors import Unknown
from doctor.facts import Facts
from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, WARNING, Finding
from doctor.look import find_version
from doctor.system import System
from doctor.tables import Tables
from doctor.versions import minor, older, parts

NEWEST_GCC, OLDEST_GCC = 20, 9
"""Versions of gcc that are looked for beside the usual one, `g++-14`."""

OPEN_FILES_LOW = 1024
"""ninja opens three descriptors a job, the linker one for each of 8,000 objects."""

SWITCHED_ON = ("ON", "1", "YES", "TRUE", "Y")
"""As PyTorch's setup.py reads a variable."""

BLAS_HEADERS = ("cblas.h", "openblas/cblas.h", "openblas-pthread/cblas.h", "mkl.h", "mkl/mkl.h")
LIST_DISTRIBUTIONS = (
    "import importlib.metadata as m, json; "
    "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version "
    "for d in m.distributions() if d.metadata['Name']}))"
)


@dataclass(frozen=True)
class Programs:
    """What a build would run, as paths with versions; what there is none of is None.

    Attributes:
        distributions: of the Python that builds; None where it may not be asked.
        compilers: beyond those of the facts.
    """

    cmake: str | None = None
    cmake_version: str | None = None
    ninja: str | None = None
    ninja_version: str | None = None
    distributions: Mapping[str, str] | None = None
    compilers: tuple[Compiler, ...] = field(default=())


def look_at_programs(system: System, python: str | None) -> Programs:
    """Find them as the build will: beside the interpreter first, then on the PATH."""
    folder = python.rsplit("/", 1)[0] if python else None
    found = {}
    for name in ("cmake", "ninja"):
        near = f"{folder}/{name}" if folder else ""
        path = near if near and system.is_file(near) else system.which(name)
        found[name] = path
        found[f"{name}_version"] = _version(system, path, "--version") if path else None
    return Programs(
        **found,
        distributions=_distributions(system, python),
        compilers=tuple(_other_compilers(system)),
    )


def _version(system: System, path: str, option: str) -> str | None:
    try:
        # below a root a program is found by its name alone
        name = path if system.live else path.rsplit("/", 1)[-1]
        return find_version(system.output([name, option]))
    except Unknown:
        return None


def _distributions(system: System, python: str | None) -> Mapping[str, str] | None:
    if python is None or not system.live:
        return None
    try:
        return dict(json.loads(system.output([python, "-c", LIST_DISTRIBUTIONS])))
    except (Unknown, ValueError):
        return None


def _other_compilers(system: System) -> Iterator[Compiler]:
    for number in range(NEWEST_GCC, OLDEST_GCC - 1, -1):
        for cxx in (
            system.which(f"g++-{number}"),
            f"/opt/rh/gcc-toolset-{number}/root/usr/bin/g++",
        ):
            if cxx and system.is_file(cxx):
                version = _version(system, cxx, "-dumpfullversion") or str(number)
                yield Compiler("gcc", version, cxx.replace("g++", "gcc"), cxx)


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
        tree: None where none is there yet; it is then not looked at.
    """
    c = Context(facts, tables)
    found = [*obstacles(facts, tables, chosen), *_programs(c, tree, programs), *_limits(c)]
    found += _libraries(c, system, chosen)
    if tree is not None:
        found += [*_submodules(c, tree, system), *_compiler_floor(c, tree, chosen)]
        found += [*_python(c, tree), *_cuda(c, tree, chosen)]
        found += _distributions_missing(c, tree, programs)
        found += [*_disk(c, system, tree, tables), *_dates(c, system, tree)]
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
            [f"{programs.cmake}: {version}", f"{tree.path}/CMakeLists.txt: {tree.cmake}"],
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
    libraries = {lib.name for lib in c.facts.nvidia.libraries} if c.facts.nvidia else set()
    if chosen.cuda and not any("cudnn" in name for name in libraries):
        yield c.finding(
            "build.dependency-missing",
            WARNING,
            "cuDNN is not installed outside of Python environments: this torch will be built "
            "without it, and convolutions are slow. Transformers do not need it.",
            ["no libcudnn.so.9 for the loader"],
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


def _submodules(c: Context, tree: Tree, system: System) -> Iterator[Finding]:
    if not tree.missing:
        return
    own = system.env.get("USE_SYSTEM_LIBS", "").upper() in SWITCHED_ON
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
            [f"{compiler.cxx}: {compiler.version}", f"{tree.path}/CMakeLists.txt: {tree.gcc}"],
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
            [f"{tree.path}/pyproject.toml: [build-system] requires"],
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
            f"{free:.1f} GB are free at {tree.path}; the objects and libraries of a whole PyTorch "
            f"take about {needed:.0f} GB with its source.",
            [f"free space at {tree.path}: {free:.1f} GB"],
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


def stops(findings: Sequence[Finding]) -> bool:
    """Whether any of them is an error."""
    return any(finding.severity == ERROR for finding in findings)

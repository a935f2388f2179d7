"""What stands in the way of a build, as far as the facts of a machine tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from doctor.facts import Facts
from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, WARNING, Finding
from doctor.knowledge.tables import Tables
from doctor.knowledge.versions import minor, older
from doctor.planner.build.draft import Draft, cost, disk_gb
from doctor.planner.build.jobs import HEADROOM_SHARE, MIB_PER_GB, usable_gb
from doctor.planner.build.recipe import headers_unknown
from doctor.planner.build.takes import (
    ToolkitAdvice,
    advise,
    endings_refused,
    row_for,
    torch_that_takes,
)
from doctor.planner.build.toolchain import compilers, unknown_archs
from doctor.planner.build.wish import base, ending
from doctor.text.quantities import disk_of_mib, memory


def obstacles(
    facts: Facts, tables: Tables, chosen: Draft, torch: str | None = None
) -> Iterator[Finding]:
    """What stands in a build's way as far as facts tell: all at once, what stops it as an error.

    Args:
        torch: version that is built, as far as it is known.
    """
    c = Context(facts, tables)
    if chosen.cuda:
        yield from _toolkit(c, chosen, torch)
        yield from _endings(c, chosen, torch)
    yield from _host_compiler(c, chosen)
    python, host = facts.python, facts.host
    if python is not None and python.headers is None and not (facts.root and headers_unknown(host)):
        yield c.finding(
            "host.python-headers-missing",
            ERROR,
            f"Python.h of Python {python.version or '?'} is not installed, and PyTorch's Python part "
            "is compiled against it.",
            [f"no Python.h for {python.executable}"],
            "Install the development files of this Python.",
            c.system_install("python-headers"),
        )
    yield from _memory(c, chosen)
    free, needed = facts.storage.free if facts.storage else None, disk_gb(tables, chosen)
    if free is not None and free < needed * MIB_PER_GB:
        yield c.finding(
            "host.disk-full",
            ERROR,
            f"{disk_of_mib(free)} are free at {facts.storage and facts.storage.base_dir}, and "
            f"source, objects and wheel take about {disk_of_mib(needed * MIB_PER_GB)}.",
            [f"free space: {free} MiB"],
            "Free space there, or put NANOCHAT_BASE_DIR on a larger disk.",
        )


def _toolkit(c: Context, chosen: Draft, torch: str | None) -> Iterator[Finding]:
    archs, toolkit = chosen.archs, chosen.toolkit
    driver = None if any(arch not in c.capabilities for arch in map(base, archs)) else c.driver
    advice = advise(archs, torch, driver, c.tables)
    wanted = advice.words(torch) if advice else ""
    commands = _install(c, advice)
    if advice is None:
        yield _no_cuda(c, archs, torch, driver)
        return
    if toolkit is None:
        yield c.finding(
            "cuda.toolkit-missing",
            ERROR,
            f"There is no nvcc here, and code for {joined(archs)} cannot be compiled without one.",
            ["no nvcc in CUDA_HOME, on the PATH or in /usr/local/cuda"],
            f"Install {wanted}. It brings no driver; wheels need none of it.",
            commands,
        )
        return
    if toolkit.version is None and not toolkit.archs:
        unknown = c.facts.nvidia.unknown if c.facts.nvidia else {}
        yield c.finding(
            "cuda.toolkit-missing",
            ERROR,
            f"{toolkit.nvcc} is there and does not work: it tells neither its version nor what it "
            "compiles for.",
            [unknown.get("nvcc_version", f"{toolkit.nvcc} --version: no answer that is one")],
            f"Install the toolkit again, or name another one with --cuda-home: {wanted}.",
            commands,
        )
        return
    missing = unknown_archs(toolkit, archs, c.tables)
    if missing:
        yield c.finding(
            "cuda.toolkit-too-old-for-arch",
            ERROR,
            f"nvcc of CUDA {toolkit.version} at {toolkit.path} does not compile for {joined(missing)}; "
            f"it knows {', '.join(toolkit.archs)}.",
            [f"{toolkit.nvcc} --list-gpu-arch: {', '.join(toolkit.archs)}"],
            f"Install {wanted}, and name it with --cuda-home.",
            commands,
        )
        return
    row = row_for(torch, c.tables) if torch else None
    if row and toolkit.version and older(toolkit.version, row["min_cuda"]):
        yield c.finding(
            "cuda.toolkit-mismatch",
            ERROR,
            f"PyTorch {torch} takes CUDA {row['min_cuda']} or newer, and {toolkit.path} is CUDA "
            f"{toolkit.version}.",
            [f"{toolkit.nvcc}: {toolkit.version}", "build/cuda.toml"],
            f"Install {wanted}, and name it with --cuda-home.",
            commands,
        )


def _install(c: Context, advice: ToolkitAdvice | None) -> list[str]:
    return c.system_install("cuda-toolkit", cuda=advice.cuda) if advice else []


def _no_cuda(c: Context, archs: Sequence[str], torch: str | None, driver: str | None) -> Finding:
    """No toolkit serves PyTorch, architectures and driver together; which older PyTorch has one."""
    series = torch_that_takes(archs, driver, c.tables)
    what = f"PyTorch {minor(torch)}" if torch else "any PyTorch"
    on = f", whose code driver {driver} runs," if driver else ""
    alone = [arch for arch in archs if advise([arch], torch, driver, c.tables) is None]
    if not alone:
        cause = f"There is no CUDA toolkit{on} that compiles for {joined(archs)} together."
        cure = "Build for one kind of card, and hide the other by CUDA_VISIBLE_DEVICES."
        commands: list[str] = []
    else:
        cause = (
            f"There is no CUDA toolkit{on} that {what} takes and that compiles for {joined(alone)}."
        )
        if series is None:
            cure, commands = (
                "No PyTorch in the tables can be built for it; train on another device.",
                [],
            )
        else:
            advice = advise(archs, series, driver, c.tables)
            assert advice is not None
            cure = f"PyTorch {series} is the newest that has one: build it (--ref) with {advice.words(series)}."
            commands = c.system_install("cuda-toolkit", cuda=advice.cuda)
    return c.finding(
        "cuda.toolkit-mismatch",
        ERROR,
        cause,
        ["build/cuda.toml: archs of each toolkit, min_cuda of each PyTorch"],
        cure,
        commands,
    )


def _endings(c: Context, chosen: Draft, torch: str | None) -> Iterator[Finding]:
    """Names such as 12.0f, which older PyTorch's do not understand."""
    refused = endings_refused(chosen.archs, torch, c.tables) if torch else []
    if refused:
        rows = c.tables.rows("cuda", "takes")
        first = next(r["since"] for r in rows if all(ending(a) in r["targets"] for a in refused))
        yield c.finding(
            "build.failed",
            ERROR,
            f"PyTorch {torch} does not know the name {joined(refused)}, which came with {first}.",
            ["cmake/Modules_CUDA_fix/upstream/FindCUDA/select_compute_arch.cmake"],
            f"Build for {joined([base(a) for a in refused])}, or take PyTorch {first} or newer.",
        )


def _host_compiler(c: Context, chosen: Draft) -> Iterator[Finding]:
    """No C++ compiler at all, or none that this nvcc accepts."""
    tools = c.facts.host.tools if c.facts.host else {}
    present = compilers(tools)
    if chosen.compiler is not None:
        return
    if not present:
        yield c.finding(
            "host.compiler-missing",
            ERROR,
            "There is neither g++ nor clang on the PATH, and PyTorch is mostly C++.",
            ["PATH: no g++, no clang"],
            "Install a compiler.",
            c.system_install("g++"),
        )
        return
    toolkit = chosen.toolkit
    row = c.tables.toolkit(toolkit.version) if toolkit and toolkit.version else None
    highest = str(row["gcc_max"]) if row else "?"
    names = joined([f"{k.kind} {k.version}" for k in present])
    yield c.finding(
        "cuda.host-compiler-unsupported",
        ERROR,
        f"nvcc of CUDA {toolkit.version if toolkit else '?'} accepts gcc up to {highest}"
        + (f" and clang up to {row['clang_max']}" if row and row.get("clang_max") else "")
        + f", and this machine has {names} (unsupported GNU version).",
        [*(f"{k.cxx}: {k.version}" for k in present), f"{toolkit.nvcc if toolkit else 'nvcc'}"],
        f"Install gcc {highest} beside it; build-torch then takes it by itself.",
        compiler_install(c, highest),
    )


def compiler_install(c: Context, gcc: str) -> list[str]:
    """Commands that install an older gcc beside the usual one; none where no package is known."""
    managers = c.tables.rows("packages", "manager")
    packages = {row["manager"]: row["packages"] for row in c.tables.rows("recipes", "compiler")}
    for name in c.distribution:
        for manager in managers:
            if name in manager["id"] and manager["name"] in packages:
                text = " ".join(packages[manager["name"]]).replace("{gcc}", gcc)
                return [str(manager["install"]).replace("{packages}", text)]
    return []


def _memory(c: Context, chosen: Draft) -> Iterator[Finding]:
    usable, jobs = usable_gb(c.facts.host), chosen.jobs
    link = float(cost(c.tables)["link_memory_gb"])
    needed = max(link, jobs.heavy_gb)
    if usable is None or usable >= needed:
        return
    what = "a flash-attention kernel" if jobs.heavy_gb > link else "the linker"
    yield c.finding(
        "host.memory-low",
        ERROR if usable < link / 2 else WARNING,
        f"{memory(usable * 1024)} of memory can be used, and {what} takes about {memory(needed * 1024)}: the "
        "compiler may be killed however few jobs run.",
        [f"free, less {HEADROOM_SHARE:.0%} for the rest of the machine: {memory(usable * 1024)}"],
        "Close other programs, raise the container's limit, or add swap before the build.",
    )

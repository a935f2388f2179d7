"""What stands in the way of a build, as far as the facts of a machine tell."""

from __future__ import annotations

from collections.abc import Iterator

from doctor.builder.torch_source.draft import Draft, cost, disk_gb
from doctor.builder.torch_source.jobs import HEADROOM_SHARE, MIB_PER_GB, usable_gb
from doctor.builder.torch_source.recipe import headers_unknown
from doctor.builder.torch_source.toolchain import compilers, unknown_archs
from doctor.builder.torch_source.wish import base
from doctor.facts import Facts
from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, WARNING, Finding
from doctor.quantities import disk_of_mib, memory
from doctor.tables import Tables
from doctor.versions import older, parts


def obstacles(facts: Facts, tables: Tables, chosen: Draft) -> Iterator[Finding]:
    """What stands in a build's way as far as facts tell: all at once, what stops it as an error."""
    c = Context(facts, tables)
    if chosen.cuda:
        yield from _toolkit(c, chosen)
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


def _toolkit(c: Context, chosen: Draft) -> Iterator[Finding]:
    archs, toolkit = chosen.archs, chosen.toolkit
    rows = [row for arch in archs if (row := c.tables.arch(base(arch)))]
    wanted = max((str(row["min_cuda"]) for row in rows), key=parts, default="13.0")
    if toolkit is None:
        yield c.finding(
            "cuda.toolkit-missing",
            ERROR,
            f"There is no nvcc here, and code for {joined(archs)} cannot be compiled without one.",
            ["no nvcc in CUDA_HOME, on the PATH or in /usr/local/cuda"],
            f"Install a CUDA toolkit, {wanted} or newer. It brings no driver; wheels need none of it.",
            c.system_install("cuda-toolkit", cuda=wanted),
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
            f"Install the toolkit again, or name another one with --cuda-home; CUDA {wanted} or newer.",
            c.system_install("cuda-toolkit", cuda=wanted),
        )
        return
    missing = unknown_archs(toolkit, archs)
    if not missing:
        return
    last = min((str(r["last_cuda"]) for r in rows if r.get("last_cuda")), key=parts, default=None)
    dropped = last is not None and toolkit.version is not None and older(last, toolkit.version)
    cure = f"CUDA {last}, the last that does" if dropped else f"CUDA {wanted} or newer"
    yield c.finding(
        "cuda.toolkit-too-old-for-arch",
        ERROR,
        f"nvcc of CUDA {toolkit.version} at {toolkit.path} does not compile for {joined(missing)}; "
        f"it knows {', '.join(toolkit.archs)}.",
        [f"{toolkit.nvcc} --list-gpu-arch: {', '.join(toolkit.archs)}"],
        f"Install {cure}, and name it with --cuda-home.",
        c.system_install("cuda-toolkit", cuda=last if dropped and last else wanted),
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

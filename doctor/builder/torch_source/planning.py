"""What a build of PyTorch would be on a machine, and what stands in its way: from facts and tables alone.

A wish becomes architectures by number, a toolkit that knows them, a host compiler that this
toolkit accepts, variables for PyTorch's build (build/recipes.toml), a number of jobs that fits
into memory, and an estimate of time and disk. Nothing is run or read here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from doctor.errors import DoctorError, WrongUsage
from doctor.facts import Facts, Host, Nvidia, Tool, Toolkit
from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, WARNING, Finding
from doctor.plan import Build, Wishes
from doctor.tables import Row, Tables
from doctor.versions import older, parts

ARCH = re.compile(r"(?:sm|compute)?[-_ ]?(\d+)(?:\.(\d))?(a?)(\+ptx)?", re.IGNORECASE)
HEADROOM_SHARE = 0.1
HEADROOM_GB = 1.0
"""Memory that is left to the rest of the machine: a tenth, and at least this much."""

MIB_PER_GB = 1024


# --- architectures -----------------------------------------------------------------------------


def canonical_archs(
    words: Iterable[str], tables: Tables, *, native: Sequence[str], known: Sequence[str]
) -> tuple[str, ...]:
    """Architectures as PyTorch writes them (`12.0`, `9.0a`, `8.6+PTX`), each once, in order.

    `sm_120`, `120`, `12`, `12.0`, `blackwell`, `native` and lists of them, with commas, semicolons
    or spaces between, are understood.

    Args:
        native: compute capabilities of this machine's visible devices.
        known: what the nvcc that will be used compiles for; empty where that is not known.

    Raises:
        WrongUsage: a name that is no architecture; it lists those that are.
        DoctorError: `native`, and no device tells what that is.
    """
    found: list[str] = []
    for word in (w for text in words for w in re.split(r"[,;\s]+", text) if w):
        found += _archs(word, tables, native, known)
    return tuple(sorted(dict.fromkeys(found), key=lambda a: (parts(a), a)))


def _archs(word: str, tables: Tables, native: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    name = word.lower()
    ptx = "+PTX" if name.endswith("+ptx") else ""
    name = name.removesuffix("+ptx")
    if name in ("native", "auto"):
        if not native:
            raise DoctorError(
                "--arch native asks for the GPUs of this machine, and none is visible here; "
                "name the architecture, such as --arch 12.0."
            )
        return [arch + ptx for arch in native]
    rows = [row for row in tables.rows("cuda", "arch") if row["family"].lower() == name]
    if rows:
        return [arch + ptx for arch in _of_family(rows, native, known)]
    match = ARCH.fullmatch(name)
    number = _number(match[1], match[2], {*known, *_all_archs(tables)}) if match else None
    if match is None or number is None:
        listed = sorted(known, key=parts) or _all_archs(tables)
        whose = "this nvcc" if known else "nvcc"
        raise WrongUsage(
            f"{word!r} is no GPU architecture; {whose} knows {', '.join(listed)}. Write 12.0, "
            "sm_120, blackwell or native, and +PTX behind it for newer cards too."
        )
    return [number + match[3] + ptx]


def _number(digits: str, minor: str | None, valid: Collection[str]) -> str | None:
    """`12` and `0`, `120`, `12` -> `12.0`; None for what no nvcc knows."""
    readings = [f"{digits}.{minor}"] if minor else [f"{digits[:-1]}.{digits[-1]}", f"{digits}.0"]
    return next((reading for reading in readings if reading in valid), None)


def _all_archs(tables: Tables) -> list[str]:
    return sorted((str(row["cc"]) for row in tables.rows("cuda", "arch")), key=parts)


def _of_family(rows: Sequence[Row], native: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """This machine's own cards of a family; else the lowest of each major that is no Tegra chip."""
    own = [str(row["cc"]) for row in rows if row["cc"] in native]
    if own:
        return own
    lowest: dict[int, str] = {}
    for cc in sorted((str(r["cc"]) for r in rows if not r["tegra"]), key=parts):
        if not known or cc in known:
            lowest.setdefault(parts(cc)[0], cc)
    return list(lowest.values()) or [str(rows[0]["cc"])]


def base(arch: str) -> str:
    """`9.0a+PTX` -> `9.0`."""
    return arch.removesuffix("+PTX").rstrip("a")


# --- toolkit and compiler ----------------------------------------------------------------------


def choose_toolkit(
    nvidia: Nvidia | None, archs: Sequence[str], cuda_home: str | None = None
) -> Toolkit | None:
    """The toolkit to build with: the usual one, or the newest other that knows all architectures.

    Args:
        cuda_home: what the user named; nothing else is then taken.
    """
    toolkits = [t for t in nvidia.toolkits if t.nvcc] if nvidia else []
    if cuda_home is not None:
        return next((t for t in toolkits if t.path == cuda_home.rstrip("/")), None)
    usual = next((t for t in toolkits if nvidia and t.nvcc == nvidia.nvcc), None)
    rest = sorted(toolkits, key=lambda t: parts(t.version or "0"), reverse=True)
    order = [usual, *rest] if usual else rest
    return next((t for t in order if not unknown_archs(t, archs)), order[0] if order else None)


def unknown_archs(toolkit: Toolkit, archs: Sequence[str]) -> list[str]:
    """Architectures that a toolkit's nvcc does not compile for; none where its list is not known."""
    return [a for a in archs if base(a) not in toolkit.archs] if toolkit.archs else []


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


# --- jobs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Jobs:
    """How many compilers run at once: of all kinds, and of those the heavy ones."""

    wide: int
    heavy: int
    heavy_gb: float
    """What the heaviest object takes."""
    light_gb: float
    """What one of the others takes on average."""

    @property
    def heavy_from_gb(self) -> float:
        """An object that takes more than this belongs into the narrow pool."""
        return (
            (self.light_gb + self.heavy_gb) / 2
            if self.heavy_gb > self.light_gb
            else self.heavy_gb * 1.5
        )


def usable_gb(host: Host | None) -> float | None:
    """Memory that the compilers may take: what is free, within the control group, less headroom."""
    if host is None:
        return None
    known = [m for m in (host.memory_available or host.memory_total, host.cgroup_memory_limit) if m]
    if not known:
        return None
    free = min(known) / MIB_PER_GB
    return max(0.5, free - max(HEADROOM_GB, free * HEADROOM_SHARE))


def fit_jobs(
    cores: int, memory_gb: float | None, weights: Sequence[Row], heavy_share: float
) -> Jobs:
    """Jobs that fit into memory and are done soonest: neither the heavy objects nor the rest hold up the other.

    Args:
        memory_gb: what `usable_gb` says; None reckons with 2 GB a core.
        weights: rows of build/recipes.toml.
        heavy_share: of a build's work, what its heavy objects are; 0 for a CPU build.
    """
    cuda = heavy_share > 0
    light = _mean(w["memory_gb"] for w in weights if not w.get("heavy") and _counts(w, cuda))
    heavy = max((w["memory_gb"] for w in weights if w.get("heavy") and cuda), default=light)
    memory = 2.0 * cores if memory_gb is None else memory_gb
    best, soonest = Jobs(1, 1, heavy, light), math.inf
    for wide in range(1, cores + 1):
        spare = memory - wide * light
        narrow = wide if heavy <= light else min(wide, int(spare // (heavy - light)))
        time = pace(wide, narrow, heavy_share) if spare >= 0 and narrow >= 1 else math.inf
        if time < math.inf and time <= soonest:
            best, soonest = Jobs(wide, narrow, heavy, light), time
    return best


def pace(wide: int, heavy: int, heavy_share: float) -> float:
    """How long a unit of work takes, in units of one core: the narrow pool may be what decides."""
    return max(1 / wide, heavy_share / heavy)


def _mean(numbers: Iterable[float]) -> float:
    found = list(numbers)
    return sum(found) / len(found)


def _counts(weight: Row, cuda: bool) -> bool:
    return cuda or ".cu" not in weight["pattern"].replace("\\", "")


# --- settings ----------------------------------------------------------------------------------


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


# --- the plan ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draft:
    """A build in the making: what was chosen, before it becomes variables."""

    archs: tuple[str, ...]
    """Empty for a CPU build."""
    libuv: bool
    toolkit: Toolkit | None
    compiler: Compiler | None
    """None: there is none, or none that goes with the toolkit."""
    jobs: Jobs
    cores: int

    @property
    def cuda(self) -> bool:
        """Whether CUDA code is compiled."""
        return bool(self.archs)


def draft(
    facts: Facts,
    tables: Tables,
    wishes: Wishes,
    *,
    cuda_home: str | None = None,
    first: Sequence[Compiler] = (),
    others: Sequence[Compiler] = (),
) -> Draft:
    """Choose architectures, toolkit, compiler and jobs.

    Args:
        first: compilers that are preferred to those that the facts name (CC and CXX).
        others: compilers to fall back on, best first.

    Raises:
        WrongUsage, DoctorError: as `canonical_archs`.
    """
    c = Context(facts, tables)
    usual = choose_toolkit(facts.nvidia, (), cuda_home)
    known = usual.archs if usual else ()
    archs = canonical_archs(
        wishes.archs or c.capabilities, tables, native=c.capabilities, known=known
    )
    toolkit = choose_toolkit(facts.nvidia, archs, cuda_home) if archs else None
    row = tables.toolkit(toolkit.version) if toolkit and toolkit.version else None
    candidates = [*first, *compilers(facts.host.tools if facts.host else {}), *others]
    compiler = next((k for k in candidates if accepts(row, k.kind, k.version)), None)
    cores = (facts.host.cores if facts.host else None) or 1
    weights = tables.rows("recipes", "weight")
    jobs = fit_jobs(cores, usable_gb(facts.host), weights, _heavy_share(tables, bool(archs)))
    return Draft(archs, wishes.libuv is not False, toolkit, compiler, jobs, cores)


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
    libraries = {lib.name for lib in facts.nvidia.libraries} if facts.nvidia else set()
    tools = facts.host.tools if facts.host else {}
    launcher = next((tools[name].path for name in ("sccache", "ccache") if name in tools), "")
    if cmake is None and "cmake" in tools:
        cmake = tools["cmake"].version
    conditions = {
        "cuda" if chosen.cuda else "cpu",
        "libuv" if chosen.libuv else "no-libuv",
        "cudnn" if any("cudnn" in name for name in libraries) else "no-cudnn",
        "system-nccl" if any("nccl" in name for name in libraries) else "bundled-nccl",
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


def obstacles(facts: Facts, tables: Tables, chosen: Draft) -> Iterator[Finding]:
    """What stands in a build's way as far as facts tell: all at once, what stops it as an error."""
    c = Context(facts, tables)
    if chosen.cuda:
        yield from _toolkit(c, chosen)
    yield from _host_compiler(c, chosen)
    python, host = facts.python, facts.host
    if python is not None and python.headers is None and not (facts.root and _bare(host)):
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
    free, needed = facts.storage.free if facts.storage else None, _disk_gb(tables, chosen)
    if free is not None and free < needed * MIB_PER_GB:
        yield c.finding(
            "host.disk-full",
            ERROR,
            f"{free / MIB_PER_GB:.0f} GB are free at {facts.storage and facts.storage.base_dir}, and "
            f"source, objects and wheel take about {needed:.0f} GB.",
            [f"free space: {free} MiB"],
            "Free space there, or put NANOCHAT_BASE_DIR on a larger disk.",
        )


def _bare(host: Host | None) -> bool:
    """Whether a tree below --root has no headers at all, so that a missing one means nothing."""
    return host is None or not host.usr_include


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
    link = float(_cost(c.tables)["link_memory_gb"])
    needed = max(link, jobs.heavy_gb)
    if usable is None or usable >= needed:
        return
    what = "a flash-attention kernel" if jobs.heavy_gb > link else "the linker"
    yield c.finding(
        "host.memory-low",
        ERROR if usable < link / 2 else WARNING,
        f"{usable:.1f} GB of memory can be used, and {what} takes about {needed:.0f} GB: the "
        "compiler may be killed however few jobs run.",
        [f"free, less {HEADROOM_SHARE:.0%} for the rest of the machine: {usable:.1f} GB"],
        "Close other programs, raise the container's limit, or add swap before the build.",
    )


def _cost(tables: Tables) -> Row:
    return tables.rows("recipes", "cost")[0]


def _disk_gb(tables: Tables, chosen: Draft) -> float:
    cost = _cost(tables)
    more = max(0, len(chosen.archs) - 1)
    return float(cost["disk_gb"] + cost["disk_gb_per_arch"] * more)


def hours(tables: Tables, chosen: Draft) -> float:
    """An estimate of a whole build's time: core hours over the cores kept busy, and what runs alone."""
    cost, jobs = _cost(tables), chosen.jobs
    work = cost["cpu_core_hours"]
    if chosen.cuda:
        work += cost["cuda_core_hours"] + cost["cuda_core_hours_per_arch"] * len(chosen.archs)
    wide, share = min(chosen.cores, jobs.wide), _heavy_share(tables, chosen.cuda)
    return float(cost["serial_hours"] + work * pace(wide, min(wide, jobs.heavy), share))


def _heavy_share(tables: Tables, cuda: bool) -> float:
    return float(_cost(tables)["heavy_share"]) if cuda else 0.0


def plan_build(
    facts: Facts, tables: Tables, wishes: Wishes
) -> tuple[Build, tuple[Finding, ...], float, float, int]:
    """A build of PyTorch for a machine: the build, what stands in its way, hours, GB of disk, MB of network.

    Without a wish it is for every visible device, with libuv; on a machine with no NVIDIA GPU it
    is a CPU build, with no architectures.

    Raises:
        WrongUsage: an architecture that there is none of.
        DoctorError: `native` on a machine with no visible device.
    """
    chosen = draft(facts, tables, wishes)
    build = Build(
        archs=chosen.archs,
        libuv=chosen.libuv,
        cuda_home=chosen.toolkit.path if chosen.toolkit else None,
        jobs=chosen.jobs.wide,
        env=environment(facts, tables, chosen),
    )
    found = tuple(obstacles(facts, tables, chosen))
    network = int(_cost(tables)["network_mb"])
    return build, found, hours(tables, chosen), _disk_gb(tables, chosen), network

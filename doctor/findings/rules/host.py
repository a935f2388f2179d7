"""Rules about the machine under everything: Python, system, limits, build tools."""

from __future__ import annotations

from collections.abc import Iterator

from doctor.facts import AREAS, Host
from doctor.findings.advice import active_cann
from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, WARNING, Finding
from doctor.knowledge import compat
from doctor.knowledge.versions import older, parts
from doctor.text import quantities

LOWEST_PYTHON = "3.10"
"""What this repository itself needs (pyproject.toml)."""

MEMORY_LOW = 4 << 10
"""MiB. `import torch` with a CUDA build takes 1, tokenizing and a small model the rest."""

DISK_FOR_TORCH = 12 << 10
"""MiB. torch 2.15.0+cu132 with its libraries takes 5.3 GB installed and 3 GB of download."""

DISK_LOW = 2 << 10
SHM_LOW = 512
"""MiB. Docker gives 64; NCCL and data loader workers want more (DeepSpeed warns below 512)."""

OPEN_FILES_LOW = 1024


def python_version(c: Context) -> Iterator[Finding]:
    """Too old for this repository, or newer than every fitting torch."""
    python = c.facts.python
    if python is None or python.version is None:
        return
    evidence = [f"{python.executable}: Python {python.version}"]
    if older(python.version, LOWEST_PYTHON):
        yield c.finding(
            "host.python-too-old",
            ERROR,
            f"Python {python.version} at {python.executable} is older than {LOWEST_PYTHON}, "
            "the lowest that this project and the current torch releases serve.",
            evidence,
            f"Make an environment with Python {LOWEST_PYTHON} to 3.13 and examine that one.",
            ["uv venv --python 3.12 .venv"] if c.has_tool("uv") else [],
        )
        return
    if c.torch is not None:
        return
    served = _served_pythons(c)
    minor = str(c.python_minor)
    if not served or minor in served:
        return  # where none is made for this kind of machine, torch.missing says so
    newest = max((p for p in served if not p.endswith("t")), key=parts, default="3.12")
    wanted = "torch_npu for the installed CANN" if c.has_npu else "torch wheel in the tables"
    freethreaded = " (free-threaded)" if minor.endswith("t") else ""
    too_new = not older(minor, newest)
    yield c.finding(
        "host.python-too-new" if too_new else "host.python-too-old",
        ERROR,
        f"No {wanted} is made for Python {python.version}{freethreaded}; "
        f"the {'newest' if too_new else 'nearest'} that one is made for is {newest}.",
        [
            *evidence,
            f"build/{'ascend' if c.has_npu else 'torch'}.toml: {joined(sorted(served, key=parts))}",
        ],
        f"Make an environment with Python {newest}.",
        [f"uv venv --python {newest} .venv"] if c.has_tool("uv") else [],
    )


def _served_pythons(c: Context) -> set[str]:
    """Pythons with a torch for this machine: torch_npu's on Ascend, else those of all wheels."""
    if c.has_npu:
        version = active_cann(c)
        pairs = c.tables.cann_pairs(version) if version else []
        return {
            python
            for pair in pairs
            for python in (*pair.get("pythons", ()), *c.tables.npu_pythons(pair["torch"]))
        }
    host = c.facts.host
    fitting = compat.fitting_wheels(
        c.tables,
        python=None,
        cpu_arch=compat.cpu_arch(host),
        glibc=None,
        devices=c.capabilities,
        driver=None,
    )
    return {python for wheel in fitting for python in wheel.pythons}


def python_32bit(c: Context) -> Iterator[Finding]:
    """There are no torch wheels for 32-bit interpreters."""
    python = c.facts.python
    if python is not None and python.bits == 32:
        yield c.finding(
            "host.python-32bit",
            ERROR,
            f"{python.executable} is a 32-bit Python, and torch has wheels for 64-bit ones only.",
            [f"{python.executable}: 32 bits"],
            "Install a 64-bit Python and make the environment with it.",
        )


def python_headers(c: Context) -> Iterator[Finding]:
    """Triton and torch.compile compile small C files against Python.h."""
    python, host = c.facts.python, c.facts.host
    if python is None or python.headers is not None or host is None or host.os != "Linux":
        return
    if c.facts.root and not host.usr_include:
        return
    yield c.finding(
        "host.python-headers-missing",
        WARNING,
        f"Python.h of Python {python.version or '?'} is not installed, and torch.compile and Triton "
        "compile against it; without it training runs in eager mode.",
        [f"no Python.h for {python.executable}"],
        "Install the development files of this Python.",
        c.system_install("python-headers"),
    )


def externally_managed(c: Context) -> Iterator[Finding]:
    """pip refuses to install into a distribution's own Python (PEP 668)."""
    python = c.facts.python
    if python is None or not python.externally_managed:
        return
    yield c.finding(
        "host.externally-managed",
        WARNING,
        f"{python.executable} belongs to the distribution, and pip refuses to install into it "
        "(externally-managed-environment).",
        [f"EXTERNALLY-MANAGED below {python.prefix}/lib"],
        "Make a virtual environment and install there.",
        ["uv venv .venv" if c.has_tool("uv") else f"{python.executable} -m venv .venv"],
    )


def venv_missing(c: Context) -> Iterator[Finding]:
    """A distribution's Python without ensurepip cannot make environments."""
    python = c.facts.python
    if python is None or python.venv_module is not False or python.venv or c.has_tool("uv"):
        return
    yield c.finding(
        "host.venv-missing",
        WARNING,
        f"{python.executable} has no ensurepip, so `python -m venv` fails, and uv is not installed.",
        [f"no ensurepip in the standard library of {python.executable}"],
        "Install the venv package of this Python.",
        c.system_install("python-venv"),
    )


def shadowed_stdlib(c: Context) -> Iterator[Finding]:
    """A file of the user's own that is imported in place of a standard module."""
    python = c.facts.python
    if python is not None and python.shadowed_modules:
        files = joined([path.rsplit("/", 1)[-1] for path in python.shadowed_modules])
        yield c.finding(
            "torch.shadowed",
            WARNING,
            f"{files} in {python.shadowed_modules[0].rsplit('/', 1)[0]} would be imported in place "
            "of the standard library's module of that name, which breaks `import torch` from there.",
            list(python.shadowed_modules),
            "Rename the file, or start from another folder.",
        )


def glibc(c: Context) -> Iterator[Finding]:
    """The C or C++ library is older than what torch's libraries ask for."""
    host = c.facts.host
    if host is None:
        return
    for family, needed, present, where in _library_versions(c, host):
        if needed and present and older(present, needed):
            yield c.finding(
                "host.glibc-too-old",
                ERROR,
                f"The installed torch needs {family}_{needed}, and {where} offers {family}_{present}.",
                [
                    f"{c.torch.path if c.torch else ''}: {family}_{needed}",
                    f"{where}: {family}_{present}",
                ],
                "Use a newer distribution or a container, or an older torch made for this one."
                if where == "this system"
                else f"Take the folder of {where} off LD_LIBRARY_PATH, or update it; newer ones serve older programs.",
            )
    if c.torch is None and host.libc == "musl":
        yield c.finding(
            "host.glibc-too-old",
            ERROR,
            "This system uses musl, and torch's wheels need glibc.",
            [f"{host.distro_name or 'the system'}: musl"],
            "Use a distribution with glibc, or a container of one.",
        )
    if c.torch is None and host.libc == "glibc" and host.libc_version:
        yield from _held_back_by_glibc(c, host.libc_version)


def _library_versions(c: Context, host: Host) -> list[tuple[str, str | None, str | None, str]]:
    """Family of symbol versions, what torch needs of it, what it gets, and from where.

    An environment may bring a libstdc++ of its own (conda does), and then the system's does not count.
    """
    build = c.torch
    if build is None:
        return []
    libc = host.libc_version if host.libc == "glibc" else None
    path = build.libstdcxx_path or ""
    own = build.libstdcxx and not path.startswith(("/usr/lib", "/lib"))
    return [
        ("GLIBC", build.glibc_needed, libc, "this system"),
        (
            "GLIBCXX",
            build.glibcxx_needed,
            build.libstdcxx or host.libstdcxx,
            path if own else "this system",
        ),
    ]


def _held_back_by_glibc(c: Context, libc_version: str) -> Iterator[Finding]:
    """An old C library leaves older wheels, or none."""
    host = c.facts.host
    unbound = compat.fitting_wheels(
        c.tables,
        python=c.python_minor,
        cpu_arch=compat.cpu_arch(host),
        glibc=None,
        devices=[] if c.has_npu else c.capabilities,
        driver=None if c.has_npu else c.driver,
    )
    if not unbound or (c.wheels and c.wheels[0].version == unbound[0].version):
        return
    left = f"torch {c.wheels[0].version} is the newest that does" if c.wheels else "no wheel does"
    yield c.finding(
        "host.glibc-too-old",
        WARNING if c.wheels else ERROR,
        f"glibc {libc_version} is older than what torch {unbound[0].version} was linked against; "
        f"{left} with it.",
        [f"glibc {libc_version}", "build/torch.toml: min_glibc"],
        "Use a newer distribution or a container.",
    )


def not_examined(c: Context) -> Iterator[Finding]:
    """Unknown is not fine: what could not be looked at is said."""
    for area, reason in c.facts.unknown.items():
        if area == "python":
            yield c.finding(
                "doctor.not-examined",
                ERROR,
                f"No Python could be examined: {reason}.",
                [reason],
                "Name an interpreter with --python.",
            )
        elif area in AREAS:
            yield c.finding(
                "doctor.not-examined",
                ERROR,
                f"Area {area} could not be looked at: {reason}.",
                [reason],
                "Run it again; with --debug it shows more.",
            )


def memory(c: Context) -> Iterator[Finding]:
    """Too little RAM, by the machine or by its control group."""
    host = c.facts.host
    if host is None or host.memory_total is None:
        return
    limit = host.cgroup_memory_limit
    usable = min(host.memory_total, limit) if limit else host.memory_total
    if usable < MEMORY_LOW:
        source = "the control group's limit" if limit and limit < host.memory_total else "RAM"
        yield c.finding(
            "host.memory-low",
            WARNING,
            f"{quantities.memory(usable)} of memory ({source}); loading torch and tokenizing take about "
            f"{quantities.memory(MEMORY_LOW)}.",
            [f"/proc/meminfo: MemTotal {host.memory_total} MiB"]
            + ([f"cgroup: {limit} MiB"] if limit else []),
            "Close other programs, raise the container's limit, or add swap.",
        )


def disk(c: Context) -> Iterator[Finding]:
    """Too little space for torch or for training."""
    python, storage = c.facts.python, c.facts.storage
    places = []
    if python is not None and c.torch is None:
        places.append(
            (python.prefix, python.prefix_free, DISK_FOR_TORCH, "torch with its libraries")
        )
    if storage is not None:
        places.append((storage.base_dir, storage.free, DISK_LOW, "shards and checkpoints"))
    for path, free, wanted, purpose in places:
        if free is not None and free < wanted:
            yield c.finding(
                "host.disk-full",
                ERROR if free < DISK_LOW else WARNING,
                f"{quantities.disk_of_mib(free)} are free at {path}, and {purpose} take "
                f"about {quantities.disk_of_mib(wanted)}.",
                [f"free space at {path}: {free} MiB"],
                "Free space there, or put the environment or NANOCHAT_BASE_DIR on a larger disk.",
            )


def shared_memory(c: Context) -> Iterator[Finding]:
    """Workers and NCCL exchange data through /dev/shm."""
    host = c.facts.host
    if host is None or host.shm_total is None or host.shm_total >= SHM_LOW:
        return
    container = " in this container" if host.container else ""
    yield c.finding(
        "host.shm-too-small",
        WARNING,
        f"/dev/shm{container} has {quantities.memory(host.shm_total)}; data loader workers and NCCL die of a bus "
        f"error below about {quantities.memory(SHM_LOW)}.",
        [f"/dev/shm: {host.shm_total} MiB"],
        "Start the container with --shm-size=16g or --ipc=host."
        if host.container
        else "Remount /dev/shm with more space.",
        [] if host.container else ["sudo mount -o remount,size=8G /dev/shm"],
    )


def open_files(c: Context) -> Iterator[Finding]:
    """Many shards, workers and sockets need many descriptors."""
    host = c.facts.host
    if host is None or host.open_files_soft is None or host.open_files_soft >= OPEN_FILES_LOW:
        return
    yield c.finding(
        "host.open-files-limit",
        WARNING,
        f"A process may open {host.open_files_soft} files; workers, shards and sockets of a run "
        "need more.",
        [f"ulimit -n: {host.open_files_soft}"],
        "Raise the limit in the shell that starts the run.",
        [f"ulimit -n {min(host.open_files_hard or 65536, 65536)}"],
    )


def compiler(c: Context) -> Iterator[Finding]:
    """torch.compile, Triton, cargo and source builds need a C and C++ compiler with a linker."""
    host = c.facts.host
    if host is None or host.os != "Linux":
        return
    compilers = [name for name in ("g++", "clang") if c.has_tool(name)]
    if compilers and c.has_tool("ld"):
        return
    missing = "no linker (ld)" if compilers else "neither g++ nor clang"
    yield c.finding(
        "host.compiler-missing",
        WARNING,
        f"There is {missing} on the PATH; torch.compile falls back to eager mode without one, and "
        "rustbpe cannot be linked.",
        ["PATH: " + (missing if compilers else "no g++, no clang")],
        "Install a compiler.",
        c.system_install("g++"),
    )


def wsl(c: Context) -> Iterator[Finding]:
    """In WSL the Windows driver serves; its libcuda must be on the loader's path."""
    host, nvidia = c.facts.host, c.facts.nvidia
    if host is None or not host.wsl or nvidia is None:
        return
    if host.kernel and "WSL2" not in host.kernel and "Microsoft" in host.kernel:
        yield c.finding(
            "host.wsl",
            WARNING,
            f"This is WSL 1 (kernel {host.kernel}), which passes no GPU through.",
            [f"uname -r: {host.kernel}"],
            "In PowerShell: `wsl --list --verbose` names the distribution, and "
            "`wsl --set-version NAME 2` converts it.",
        )
    elif host.container and nvidia.stray_library is None and nvidia.driver_library is None:
        return  # the container was not given it: a matter of its runtime, which `library` names
    elif "/dev/dxg" in nvidia.device_nodes and nvidia.driver_library is None:
        yield c.finding(
            "host.wsl",
            ERROR,
            "WSL 2 passes the GPU through (/dev/dxg), but libcuda.so.1 is not on the loader's path; "
            "it lies in /usr/lib/wsl/lib.",
            ["/dev/dxg exists", "libcuda.so.1: not found by the loader"],
            "Put the folder on the loader's path, and install no Linux driver inside WSL.",
            [
                "echo /usr/lib/wsl/lib | sudo tee /etc/ld.so.conf.d/ld.wsl.conf",
                "sudo ldconfig",
            ],
        )
    elif "/dev/dxg" in nvidia.device_nodes and "/wsl/" not in (nvidia.driver_library or ""):
        yield c.finding(
            "host.wsl",
            ERROR,
            f"libcuda.so.1 is taken from {nvidia.driver_library}, not from /usr/lib/wsl/lib: "
            "a Linux driver was installed inside WSL and hides the one of Windows.",
            [f"libcuda.so.1: {nvidia.driver_library}"],
            "Remove the Linux driver packages; in WSL the driver of Windows serves.",
        )


def network(c: Context) -> Iterator[Finding]:
    """What could not be reached, each kind once, and a mirror that could."""
    if c.facts.network is None:
        return
    endpoints = c.facts.network.endpoints
    for kind in dict.fromkeys(e.kind for e in endpoints):
        of_kind = [e for e in endpoints if e.kind == kind]
        main = of_kind[0]
        if main.reachable:
            continue
        mirror = next((e for e in of_kind[1:] if e.reachable), None)
        rows = {row["name"]: row for row in c.tables.rows("mirrors", "endpoint")}
        row = rows.get(mirror.name, {}) if mirror else {}
        commands = [f"export {row['variable']}={row['url']}"] if row.get("variable") else []
        yield c.finding(
            "host.network-unreachable",
            WARNING,
            f"{main.name} cannot be reached: {main.trouble}."
            + (f" {mirror.name} can." if mirror else " Neither can any of its mirrors."),
            [f"{e.name}: {e.trouble or 'reachable'}" for e in of_kind],
            "Use the mirror."
            if mirror
            else "Check the connection, the proxy variables and the DNS.",
            commands,
        )


RULES = (
    not_examined,
    python_version,
    python_32bit,
    python_headers,
    externally_managed,
    venv_missing,
    shadowed_stdlib,
    glibc,
    memory,
    disk,
    shared_memory,
    open_files,
    compiler,
    wsl,
    network,
)

"""The machine under everything: system, processor, memory, limits, compilers and build tools."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable

from doctor.errors import Unknown
from doctor.facts import Host, Tool
from doctor.machine.linker import Linker
from doctor.machine.look import MIB, Look, find_version, key_values, number, without_credentials
from doctor.machine.system import System
from doctor.probe.host import libstdcxx
from doctor.probe.host.identity import packaged_version, program_version, uname
from doctor.text.credentials import learn_indexes, shown_index

DECIDING_FLAGS = frozenset(
    "avx avx2 fma f16c avx512f avx512bw avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_bf16 "
    "amx_int8 amx_fp16 sse4_2 asimd fphp asimdhp bf16 i8mm sve sve2 svebf16".split()
)

TOOLS: dict[str, tuple[str, ...]] = {
    "gcc": ("-dumpfullversion",),
    "g++": ("-dumpfullversion",),
    "clang": ("--version",),
    "ld": ("--version",),
    "cmake": ("--version",),
    "ninja": ("--version",),
    "make": ("--version",),
    "ccache": ("--version",),
    "sccache": ("--version",),
    "git": ("--version",),
    "uv": ("--version",),
    "patchelf": ("--version",),
}
"""Program -> arguments that make it print its version."""

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

CONTAINER_MARKS = (("/.dockerenv", "docker"), ("/run/.containerenv", "podman"),
                   ("/.singularity.d", "apptainer"))  # fmt: skip
CGROUP_MARKS = (("kubepods", "kubernetes"), ("docker", "docker"), ("lxc", "lxc"),
                ("libpod", "podman"), ("containerd", "containerd"))  # fmt: skip

NO_LIMIT = 1 << 60
"""cgroup v1 writes a number near 2**63 for «no limit»."""

ARM_PARTS = {("0x48", "0xd01"): "Kunpeng-920", ("0x48", "0xd02"): "Kunpeng-920B",
             ("0x41", "0xd0c"): "Neoverse-N1", ("0x41", "0xd40"): "Neoverse-V1",
             ("0x41", "0xd4f"): "Neoverse-V2"}  # fmt: skip
"""(implementer, part) of /proc/cpuinfo -> name (Linux, arch/arm64/include/asm/cputype.h)."""


def start(system: System) -> None:
    """Begin to run the programs that `probe` will ask, so that they run side by side."""
    for name, arguments in TOOLS.items():
        if system.which(name):
            system.start([name, *arguments])


def probe(system: System, linker: Linker) -> Host:
    """Describe the machine."""
    look = Look()
    release = look("distro_name", lambda: key_values(system.text("/etc/os-release") or "")) or {}
    cpu = look("cpu_model", lambda: parse_cpuinfo(_required(system, "/proc/cpuinfo")))
    memory = look("memory_total", lambda: parse_meminfo(_required(system, "/proc/meminfo"))) or {}
    shm = look("shm_total", _shm, system) or (None, None)
    files = look("open_files_soft", _open_files, system) or (None, None)
    libc = look("libc_version", _libc, system, linker) or (None, None)
    operating_system = look("os", uname, system, "-s")
    if operating_system == "Darwin":
        memory = look("memory_total", _mac_memory, system) or {}
        look.reasons.pop("cpu_model", None)
    return Host(
        os=operating_system,
        kernel=look("kernel", uname, system, "-r"),
        arch=look("arch", uname, system, "-m"),
        distro_id=release.get("ID", "").lower() or None,
        distro_like=tuple(release.get("ID_LIKE", "").lower().split()),
        distro_name=release.get("PRETTY_NAME"),
        distro_version=release.get("VERSION_ID"),
        cpu_model=look("cpu_model", _cpu_model, system, cpu.model if cpu else None),
        cores=look("cores", _cores, system, cpu),
        physical_cores=cpu.physical_cores if cpu else None,
        cpu_flags=tuple(sorted(cpu.flags & DECIDING_FLAGS)) if cpu else (),
        memory_total=memory.get("MemTotal"),
        memory_available=memory.get("MemAvailable"),
        swap_total=memory.get("SwapTotal"),
        cgroup_memory_limit=look("cgroup_memory_limit", _cgroup_memory, system),
        cgroup_cpu_limit=look("cgroup_cpu_limit", _cgroup_cpu, system),
        libc=libc[0],
        libc_version=libc[1],
        libstdcxx=look("libstdcxx", lambda: libstdcxx.offered(system, linker.find(libstdcxx.NAME))),
        wsl=look("wsl", _wsl, system),
        container=look("container", _container, system),
        shm_total=shm[0],
        shm_free=shm[1],
        open_files_soft=files[0],
        open_files_hard=files[1],
        user_is_root=look("user_is_root", _is_root, system),
        usr_include=system.is_dir("/usr/include"),
        tools=_tools(system),
        pip_index=look("pip_index", _shown, system, pip_index),
        uv_index=look("uv_index", _shown, system, uv_index),
        proxy_variables=tuple(
            name for name in system.env if name.lower() in PROXY_VARIABLES and system.env[name]
        ),
        unknown=look.reasons,
    )


def _required(system: System, path: str) -> str:
    text = system.text(path)
    if not text or not text.strip("\0\ufffd \n"):
        raise Unknown(f"{path} is {'absent' if text is None else 'empty'}")
    return text


# --- processor -------------------------------------------------------------------------------


class Cpu:
    """What /proc/cpuinfo says: model, logical and physical cores, flags."""

    def __init__(
        self, model: str | None, logical: int, physical: int | None, flags: set[str]
    ) -> None:
        self.model, self.logical, self.physical_cores = model, logical, physical
        self.flags = flags


def parse_cpuinfo(text: str) -> Cpu:
    """Read /proc/cpuinfo of x86 and ARM kernels.

    Raises:
        Unknown: it lists no processor.
    """
    blocks = [key_values(block, ":") for block in re.split(r"\n\s*\n", text.strip())]
    processors = [block for block in blocks if "processor" in block]
    if not processors:
        raise Unknown("/proc/cpuinfo lists no processor")
    first = processors[0]
    sockets: dict[str, int] = {}
    for block in processors:
        per_socket = number(block.get("cpu cores", ""))
        if per_socket:
            sockets[block.get("physical id", "0")] = per_socket
    part = (first.get("CPU implementer", ""), first.get("CPU part", ""))
    flags = first.get("flags") or first.get("Features") or ""
    return Cpu(
        model=first.get("model name") or ARM_PARTS.get(part),
        logical=len(processors),
        physical=sum(sockets.values()) or None,
        flags=set(flags.split()),
    )


def _cpu_model(system: System, known: str | None) -> str | None:
    if known:
        return known
    if system.live and os.uname().sysname == "Darwin":
        return system.output(["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]).strip()
    return key_values(system.output(["lscpu"]), ":").get("Model name")


def _cores(system: System, cpu: Cpu | None) -> int:
    if system.live:
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    if cpu is None:
        raise Unknown("/proc/cpuinfo is unreadable")
    return cpu.logical


# --- memory and limits -----------------------------------------------------------------------


def parse_meminfo(text: str) -> dict[str, int]:
    """Sizes of /proc/meminfo in MiB by their names.

    Raises:
        Unknown: it names no total.
    """
    sizes = {}
    for key, value in key_values(text, ":").items():
        kib = re.fullmatch(r"(\d+) kB", value)
        if kib:
            sizes[key] = int(kib.group(1)) // 1024
    if "MemTotal" not in sizes:
        raise Unknown("/proc/meminfo names no MemTotal")
    return sizes


def _mac_memory(system: System) -> dict[str, int]:
    total = int(system.output(["/usr/sbin/sysctl", "-n", "hw.memsize"])) // MIB
    if not total:
        raise Unknown("sysctl tells no memory size")
    return {"MemTotal": total}


def _cgroup_memory(system: System) -> int | None:
    """Memory limit in MiB of this control group; None without one."""
    limits = [
        number(system.text(path) or "")
        for path in (
            *(f"{folder}/memory.max" for folder in _cgroup_folders(system)),
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        )
    ]
    sizes = [limit // MIB for limit in limits if limit is not None and limit < NO_LIMIT]
    return min(sizes, default=None)


def _cgroup_cpu(system: System) -> float | None:
    """CPU quota in cores; None without one."""
    quotas = []
    for folder in _cgroup_folders(system):
        words = (system.text(f"{folder}/cpu.max") or "").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
    quota = number(system.text("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") or "")
    period = number(system.text("/sys/fs/cgroup/cpu/cpu.cfs_period_us") or "")
    if quota and period:
        quotas.append(quota / period)
    return min(quotas, default=None)


def _cgroup_folders(system: System) -> list[str]:
    """Folders of this process's version 2 control group and of all above it."""
    own = re.search(r"^0::(/.*)$", system.text("/proc/self/cgroup") or "", re.MULTILINE)
    parts = [p for p in own.group(1).split("/") if p and p != ".."] if own else []
    return ["/sys/fs/cgroup" + "".join(f"/{p}" for p in parts[:n]) for n in range(len(parts) + 1)]


def _shm(system: System) -> tuple[int | None, int | None]:
    """Total and free MiB of /dev/shm; below a root from its mount options."""
    if system.live:
        if not system.is_dir("/dev/shm"):
            return None, None
        total, free = system.space("/dev/shm")
        return total // MIB, free // MIB
    return parse_shm_mount(system.text("/proc/mounts") or ""), None


def parse_shm_mount(text: str) -> int | None:
    """Size in MiB that the mount of /dev/shm was given; None where it names none."""
    units = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 4 and fields[1] == "/dev/shm":
            size = re.search(r"(?:^|,)size=(\d+)([kmg]?)(?:,|$)", fields[3], re.IGNORECASE)
            if size:
                return int(size.group(1)) * units[size.group(2).lower()] // MIB
    return None


def _open_files(system: System) -> tuple[int | None, int | None]:
    """Soft and hard limit of open files; None for no limit."""
    if system.live:
        import resource

        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        soft, hard = (None if n == resource.RLIM_INFINITY else n for n in limits)
        return soft, hard
    for path in ("/proc/self/limits", "/proc/1/limits"):
        match = re.search(r"^Max open files\s+(\d+)\s+(\d+)", system.text(path) or "", re.MULTILINE)
        if match:
            return int(match.group(1)), int(match.group(2))
    raise Unknown("the tree names no limits")


def _is_root(system: System) -> bool:
    if system.live:
        return os.geteuid() == 0
    return system.output(["id", "-u"]).strip() == "0"


# --- system ----------------------------------------------------------------------------------


def _libc(system: System, linker: Linker) -> tuple[str | None, str | None]:
    """Name and version of the C library."""
    if system.live and os.uname().sysname != "Linux":
        return None, None
    for ask in (_libc_from_getconf, _libc_from_file, _libc_from_package):
        found = _attempt(ask, system, linker)
        if found:
            return "glibc", found
    musl = next((n for n in system.names("/lib") if n.startswith("ld-musl-")), None)
    if musl:
        return "musl", None
    raise Unknown("neither getconf nor libc.so.6 tells it")


def _libc_from_getconf(system: System, linker: Linker) -> str:
    if system.live:
        return find_version(os.confstr("CS_GNU_LIBC_VERSION") or "")
    return find_version(system.output(["getconf", "GNU_LIBC_VERSION"]))


def _libc_from_file(system: System, linker: Linker) -> str:
    data = system.bytes(linker.find("libc.so.6") or "/lib64/libc.so.6") or b""
    match = re.search(rb"GNU C Library .*?version (\d+\.\d+)", data)
    if match is None:
        raise Unknown("libc.so.6 names no version")
    return match.group(1).decode()


def _libc_from_package(system: System, linker: Linker) -> str:
    if found := packaged_version(system, "libc6"):
        return found
    raise Unknown("no package of the C library is noted")


def _attempt(ask: Callable[[System, Linker], str], system: System, linker: Linker) -> str | None:
    try:
        return ask(system, linker)
    except (Unknown, ValueError, OSError):
        return None


def _wsl(system: System) -> bool:
    text = system.text("/proc/sys/kernel/osrelease") or system.text("/proc/version") or ""
    return "microsoft" in text.lower() or "WSL_DISTRO_NAME" in system.env


def _container(system: System) -> str | None:
    """Its kind: who makes containers says so in init's environment, and only some leave files."""
    if "KUBERNETES_SERVICE_HOST" in system.env:
        return "kubernetes"
    if any(name in system.env for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")):
        return "apptainer"
    said = system.env.get("container") or _told_by_init(system)
    if said:
        return said
    for path, name in CONTAINER_MARKS:
        if system.exists(path):
            return name
    groups = system.text("/proc/1/cgroup") or system.text("/proc/self/cgroup") or ""
    return next((name for mark, name in CGROUP_MARKS if mark in groups), None)


def _told_by_init(system: System) -> str | None:
    """`container=lxc` of init, or what systemd keeps of it; only root reads another's environment."""
    texts = []
    for path in ("/run/systemd/container", "/run/container_type", "/proc/1/environ"):
        with contextlib.suppress(Unknown):
            text = system.text(path) or ""
            lines = text.split("\0") if path.startswith("/proc") else [f"container={text.strip()}"]
            texts += [line.partition("=")[2] for line in lines if line.startswith("container=")]
    return next((text for text in texts if text not in ("", "wsl")), None)


def _tools(system: System) -> dict[str, Tool]:
    tools = {}
    for name, arguments in TOOLS.items():
        path = system.which(name)
        if path:
            look = Look()
            version = look("version", program_version, system, name, arguments)
            tools[name] = Tool(path=path, version=version, unknown=look.reasons)
    return tools


# --- package indexes -------------------------------------------------------------------------


def _shown(system: System, ask: Callable[[System], str | None]) -> str | None:
    url = ask(system)
    return shown_index(url) if url else None


def pip_index(system: System) -> str | None:
    """Index that pip's environment or configuration names, without credentials."""
    if system.env.get("PIP_INDEX_URL"):
        return without_credentials(system.env["PIP_INDEX_URL"])
    import configparser  # only here, and rarely reached

    home = system.home()
    files = [system.env.get("PIP_CONFIG_FILE"), f"{system.env.get('VIRTUAL_ENV', '')}/pip.conf"]
    files += [f"{home}/.config/pip/pip.conf", f"{home}/.pip/pip.conf"] if home else []
    for path in [*files, "/etc/pip.conf"]:
        text = system.text(path) if path and path.startswith("/") else None
        if not text:
            continue
        learn_indexes(text)
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read_string(text)
        except configparser.Error as error:
            raise Unknown(f"{path} is no configuration: {error}".splitlines()[0]) from error
        for section in ("install", "global"):
            url = parser.get(section, "index-url", fallback=None)
            url = url or parser.get(section, "index_url", fallback=None)
            if url:
                return without_credentials(url)
    return None


def uv_index(system: System) -> str | None:
    """The same for uv."""
    for variable in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        if system.env.get(variable):
            name, equals, rest = system.env[variable].partition("=")
            named = equals and "/" not in name  # uv takes NAME=URL too
            return without_credentials(rest if named else system.env[variable])
    home = system.env.get("XDG_CONFIG_HOME") or f"{system.home()}/.config"
    for path in (f"{home}/uv/uv.toml", "/etc/uv/uv.toml"):
        text = system.text(path) or ""
        learn_indexes(text)
        url = re.search(r"""^\s*index-url\s*=\s*["']([^"']+)""", text, re.MULTILINE)
        default = re.search(
            r"""\[\[index\]\][^\[]*?url\s*=\s*["']([^"']+)["'][^\[]*?default\s*=\s*true""", text
        )
        found = url or default
        if found:
            return without_credentials(found.group(1))
    return None

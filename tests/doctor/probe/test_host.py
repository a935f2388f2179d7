"""The machine under everything, read from pasted files of real kernels and from trees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doctor.errors import Unknown
from doctor.facts import Host
from doctor.machine.linker import Linker
from doctor.machine.look import find_version, number, without_credentials
from doctor.machine.system import System
from doctor.probe.host import host
from doctor.probe.host.host import (
    parse_cpuinfo,
    parse_meminfo,
    parse_shm_mount,
    pip_index,
    uv_index,
)

Tree = Callable[..., System]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Makes a tree of files (path -> text) and programs (name -> shell lines)."""

    def make(
        files: Mapping[str, str] | None = None, programs: Mapping[str, str] | None = None
    ) -> System:
        scripts = {f"usr/bin/{n}": f"#!/bin/sh\n{body}\n" for n, body in (programs or {}).items()}
        for path, text in ({} if files is None else dict(files) | scripts).items():
            place = tmp_path / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
            place.chmod(0o755 if path in scripts else 0o644)
        return System(tmp_path, execute=True)

    return make


X86 = """\
processor\t: {n}
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8480+
physical id\t: {socket}
siblings\t: 2
core id\t\t: 0
cpu cores\t: 2
flags\t\t: fpu vme sse4_2 avx avx2 fma avx512f avx512bw avx512_bf16 amx_tile amx_bf16 amx_int8

"""
ARM = """\
processor\t: {n}
BogoMIPS\t: 200.00
Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid i8mm bf16 sve
CPU implementer\t: 0x48
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd01
CPU revision\t: 0

"""


@pytest.mark.parametrize(
    ("text", "model", "logical", "physical"),
    [
        ("".join(X86.format(n=n, socket=n // 2) for n in range(4)),
         "Intel(R) Xeon(R) Platinum 8480+", 4, 4),
        ("".join(ARM.format(n=n) for n in range(8)), "Kunpeng-920", 8, None),
        ("processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x99\nCPU part\t: 0x001\n",
         None, 1, None),
        ("processor : 0\ncpu cores : many\n", None, 1, None),
    ],
    ids=["x86", "Kunpeng", "unknown ARM", "odd"],
)  # fmt: skip
def test_cpuinfo(text: str, model: str | None, logical: int, physical: int | None) -> None:
    cpu = parse_cpuinfo(text)
    assert (cpu.model, cpu.logical, cpu.physical_cores) == (model, logical, physical)


def test_cpu_flags() -> None:
    assert {"avx512_bf16", "amx_bf16"} <= parse_cpuinfo(X86.format(n=0, socket=0)).flags
    assert {"bf16", "sve", "asimdhp"} <= parse_cpuinfo(ARM.format(n=0)).flags


@pytest.mark.parametrize("text", ["", "\n\n", "garbage", "\0\0\0", "model name : x\n"])
def test_cpuinfo_of_nothing(text: str) -> None:
    with pytest.raises(Unknown, match="lists no processor"):
        parse_cpuinfo(text)


MEMINFO = """\
MemTotal:       65690120 kB
MemFree:         1204424 kB
MemAvailable:   52333000 kB
SwapTotal:       2097148 kB
HugePages_Total:       0
Hugepagesize:       2048 kB
"""


def test_meminfo() -> None:
    sizes = parse_meminfo(MEMINFO)
    assert (sizes["MemTotal"], sizes["MemAvailable"], sizes["SwapTotal"]) == (64150, 51106, 2047)
    assert "HugePages_Total" not in sizes


@pytest.mark.parametrize("text", ["", "MemTotal: lots", "MemFree: 12 kB", "MemTotal: 12 GB", "\0"])
def test_meminfo_of_nothing(text: str) -> None:
    with pytest.raises(Unknown, match="names no MemTotal"):
        parse_meminfo(text)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("rw,nosuid,nodev,size=65536k", 64),
        ("rw,size=64m,mode=1777", 64),
        ("size=8G", 8192),
        ("rw,size=67108864", 64),
        ("rw,relatime,inode64", None),
        ("rw,maxsize=64m", None),
        ("rw,size=50%", None),
        ("size=64mx", None),
    ],
)
def test_shm_mount(options: str, expected: int | None) -> None:
    text = f"proc /proc proc rw 0 0\nshm /dev/shm tmpfs {options} 0 0\ntmpfs /x tmpfs size=1k 0 0\n"
    assert parse_shm_mount(text) == expected


@settings(deadline=None, max_examples=120)
@given(st.one_of(st.text(max_size=150), st.text("size=0123kmg, /devshm:\n\t", max_size=80)))
def test_any_text_as_files_of_proc(text: str) -> None:
    assert (parse_shm_mount(text) or 0) >= 0
    assert (parse_shm_mount(f"shm /dev/shm tmpfs {text} 0 0") or 0) >= 0
    for parse in (parse_cpuinfo, parse_meminfo):
        for whole in (text, f"processor : 0\nMemTotal: 1 kB\n{text}"):
            try:
                assert parse(whole) is not None
            except Unknown:
                assert whole is text


# --- indexes ---------------------------------------------------------------------------------

URL, OTHER = "https://mirror.example/simple", "https://other.example/simple"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"etc/pip.conf": f"[global]\nindex-url = {URL}\n"}, URL),
        ({"etc/pip.conf": f"[global]\nindex_url={URL}\n"}, URL),
        ({"etc/pip.conf": f"[global]\nindex-url={OTHER}\n[install]\nindex-url={URL}\n"}, URL),
        ({"etc/pip.conf": f"[global]\nextra-index-url={URL}\n"}, None),
        ({"etc/environment": f"PIP_INDEX_URL={URL}\n",
          "etc/pip.conf": f"[global]\nindex-url={OTHER}\n"}, URL),
        ({"etc/environment": "HOME=/root\n", "etc/pip.conf": f"[global]\nindex-url={OTHER}\n",
          "root/.config/pip/pip.conf": f"[global]\nindex-url={URL}\n"}, URL),
        ({"etc/environment": "HOME=/root\n",
          "root/.pip/pip.conf": f"[global]\nindex-url={URL}\n"}, URL),
        ({"etc/environment": "PIP_CONFIG_FILE=/opt/pip.conf\n",
          "opt/pip.conf": f"[global]\nindex-url={URL}\n"}, URL),
        ({"etc/environment": "VIRTUAL_ENV=/opt/venv\n",
          "opt/venv/pip.conf": f"[global]\nindex-url={URL}\n"}, URL),
        ({"etc/pip.conf": "[global]\nindex-url = https://user:pass@mirror.example/simple\n"}, URL),
        ({"etc/pip.conf": ""}, None),
    ],
)  # fmt: skip
def test_pip_index(tree: Tree, files: dict[str, str], expected: str | None) -> None:
    assert pip_index(tree(files)) == expected


@pytest.mark.parametrize("text", ["no section\n", "[global\n", "[global]\nindex-url\n", "\0"])
def test_a_damaged_pip_configuration(tree: Tree, text: str) -> None:
    with pytest.raises(Unknown, match=r"/etc/pip\.conf is no configuration"):
        pip_index(tree({"etc/pip.conf": text}))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"etc/uv/uv.toml": f'index-url = "{URL}"\n'}, URL),
        ({"etc/uv/uv.toml": f"[[index]]\nurl = '{URL}'\ndefault = true\n"}, URL),
        ({"etc/uv/uv.toml": f'[[index]]\nname = "a"\nurl = "{URL}"\n'}, None),
        ({"etc/uv/uv.toml": f'[[index]]\nurl = "{OTHER}"\n\n[[index]]\nurl = "{URL}"\n'
          "default = true\n"}, URL),
        ({"etc/environment": f"UV_DEFAULT_INDEX={URL}\nUV_INDEX_URL={OTHER}\n"}, URL),
        ({"etc/environment": f"UV_DEFAULT_INDEX=mirror={URL}\n"}, URL),
        ({"etc/environment": f"UV_INDEX_URL={URL}\n"}, URL),
        ({"etc/environment": "HOME=/root\n",
          "root/.config/uv/uv.toml": f'index-url="{URL}"'}, URL),
        ({"etc/environment": "UV_INDEX_URL=https://u:p@mirror.example/simple\n"}, URL),
        ({"etc/environment": f"UV_INDEX_URL={URL}?a=b\n"}, f"{URL}?a=b"),
    ],
)  # fmt: skip
def test_uv_index(tree: Tree, files: dict[str, str], expected: str | None) -> None:
    assert uv_index(tree(files)) == expected


# --- helpers of the probes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8192", 8192), ("8192 MiB", 8192), ("8192.5", 8192), ("  7 ", 7), ("[N/A]", None),
        ("", None), ("-1", None), ("12x", None), ("1,024", None), ("max", None), ("\n5", 5),
    ],
)  # fmt: skip
def test_number(text: str, expected: int | None) -> None:
    assert number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cmake version 3.25.1", "3.25.1"),
        ("git version 2.39.5 (Apple Git-154)", "2.39.5"),
        ("uv 0.5.11 (abc1234 2024-12-19)", "0.5.11"),
        ("rustc 1.83.0-nightly (90b35a623 2024-11-26)", "1.83.0"),
        ("v1.2.3", "1.2.3"),
        ("cuda12.8", None),
        ("version 9", None),
        ("", None),
    ],
)
def test_find_version(text: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(Unknown, match="no version in"):
            find_version(text)
    else:
        assert find_version(text) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://u:p@h/x", "https://h/x"),
        ("https://token@h", "https://h"),
        ("https://h/x@y", "https://h/x@y"),
        ("h/x", "h/x"),
    ],
)
def test_without_credentials(url: str, expected: str) -> None:
    assert without_credentials(url) == expected


# --- the whole probe below a root --------------------------------------------------------------

OS_RELEASE = """\
PRETTY_NAME="Ubuntu 22.04.5 LTS"
NAME="Ubuntu"
VERSION_ID="22.04"
ID=ubuntu
ID_LIKE=debian
"""
UNAME = "case $1 in -s) echo Linux;; -r) echo 6.8.0-48-generic;; -m) echo x86_64;; esac"


def look(system: System) -> Host:
    return host.probe(system, Linker(system))


def test_a_whole_machine(tree: Tree) -> None:
    found = look(
        tree(
            {
                "etc/os-release": OS_RELEASE,
                "proc/cpuinfo": "".join(X86.format(n=n, socket=0) for n in range(2)),
                "proc/meminfo": MEMINFO,
                "proc/mounts": "shm /dev/shm tmpfs rw,size=65536k 0 0\n",
                "proc/self/limits": "Max open files            1024                 524288   files\n",
                "proc/self/cgroup": "0::/user.slice/job\n",
                "sys/fs/cgroup/memory.max": "max\n",
                "sys/fs/cgroup/user.slice/memory.max": "8589934592\n",
                "sys/fs/cgroup/user.slice/job/memory.max": "17179869184\n",
                "sys/fs/cgroup/user.slice/job/cpu.max": "350000 100000\n",
                "etc/environment": "HTTPS_PROXY=http://u:p@proxy:1\nno_proxy=\n",
                ".dockerenv": "",
            },
            {
                "uname": UNAME,
                "getconf": "echo glibc 2.35",
                "id": "echo 0",
                "gcc": "echo 11.4.0",
                "ld": "echo 'GNU ld (GNU Binutils for Ubuntu) 2.38'",
                "cmake": "echo no version here",
                "ninja": "exit 1",
            },
        )
    )
    assert (found.os, found.kernel, found.arch) == ("Linux", "6.8.0-48-generic", "x86_64")
    assert (found.distro_id, found.distro_like, found.distro_version) == (
        "ubuntu", ("debian",), "22.04",
    )  # fmt: skip
    assert (found.cores, found.physical_cores) == (2, 2)
    assert "amx_bf16" in found.cpu_flags and "fpu" not in found.cpu_flags
    assert (found.memory_total, found.cgroup_memory_limit) == (64150, 8192)
    assert found.cgroup_cpu_limit == 3.5
    assert (found.libc, found.libc_version) == ("glibc", "2.35")
    assert (found.container, found.wsl, found.shm_total, found.shm_free) == (
        "docker", False, 64, None,
    )  # fmt: skip
    assert (found.open_files_soft, found.open_files_hard) == (1024, 524288)
    assert found.user_is_root is True
    assert {n: t.version for n, t in found.tools.items()} == {
        "gcc": "11.4.0", "ld": "2.38", "cmake": None, "ninja": None,
    }  # fmt: skip
    assert found.tools["ninja"].unknown == {"version": "ninja ended with status 1"}
    assert found.proxy_variables == ("HTTPS_PROXY",)
    assert "proxy:1" not in repr(found)


def test_an_empty_machine_is_unknown_not_guessed(tree: Tree) -> None:
    found = look(tree())
    assert (found.os, found.arch, found.cores, found.memory_total, found.libc) == (None,) * 5
    for name in ("os", "kernel", "arch", "cpu_model", "cores", "memory_total", "libc_version"):
        assert found.unknown[name], name
    assert (found.cgroup_memory_limit, found.container, found.tools) == (None, None, {})


@pytest.mark.parametrize("content", ["", "\0" * 4096, "\ufffd\ufffd", "garbage " * 1000])
def test_garbage_in_every_file(tree: Tree, content: str) -> None:
    paths = ("proc/cpuinfo", "proc/meminfo", "proc/mounts", "etc/os-release", "proc/self/limits",
             "proc/self/cgroup", "proc/1/cgroup", "sys/fs/cgroup/memory.max",
             "sys/fs/cgroup/cpu.max", "sys/fs/cgroup/memory/memory.limit_in_bytes",
             "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "proc/version", "proc/sys/kernel/osrelease",
             "etc/uv/uv.toml", "lib64/libc.so.6", "etc/ld.so.cache")  # fmt: skip
    programs = dict.fromkeys((*host.TOOLS, "uname", "getconf", "id", "ldconfig"), "cat /dev/null")
    found = look(tree(dict.fromkeys(paths, content), programs))
    assert "cores" in found.unknown and "memory_total" in found.unknown
    assert found.cgroup_memory_limit is None and found.cgroup_cpu_limit is None
    assert all(tool.version is None and tool.unknown for tool in found.tools.values())


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "4294967296\n"}, 4096),
        ({"sys/fs/cgroup/memory.max": "max\n"}, None),
        ({"sys/fs/cgroup/memory.max": "4294967296\n"}, 4096),
        ({"sys/fs/cgroup/a/memory.max": "1048576\n", "proc/self/cgroup": "1:x:/\n0::/a\n"}, 1),
    ],
)
def test_cgroup_memory(tree: Tree, files: dict[str, str], expected: int | None) -> None:
    assert look(tree(files)).cgroup_memory_limit == expected


@pytest.mark.parametrize(
    ("files", "container", "wsl"),
    [
        ({"proc/1/cgroup": "0::/kubepods/pod1\n"}, "kubernetes", False),
        ({"run/.containerenv": ""}, "podman", False),
        ({"proc/1/cgroup": "12:cpu:/lxc/name\n"}, "lxc", False),
        ({"etc/environment": "container=systemd-nspawn\n"}, "systemd-nspawn", False),
        ({"proc/1/cgroup": "0::/init.scope\n"}, None, False),
        ({"proc/sys/kernel/osrelease": "5.15.167.4-microsoft-standard-WSL2\n"}, None, True),
        ({"proc/version": "Linux version 4.4.0-19041-Microsoft\n"}, None, True),
        ({"etc/environment": "WSL_DISTRO_NAME=Ubuntu\n"}, None, True),
    ],
)
def test_container_and_wsl(
    tree: Tree, files: dict[str, str], container: str | None, wsl: bool
) -> None:
    found = look(tree(files))
    assert (found.container, found.wsl) == (container, wsl)


def test_musl(tree: Tree) -> None:
    assert look(tree({"lib/ld-musl-x86_64.so.1": ""})).libc == "musl"


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ("g++ (Debian 12.2.0-14) 12.2.0", "12.2.0"),
        ("GNU ld (GNU Binutils for Debian) 2.40", "2.40"),
        ("LLD 17.0.6 (compatible with GNU linkers)", "17.0.6"),
        ("Ubuntu clang version 14.0.0-1ubuntu1.1\nTarget: x86_64-pc-linux-gnu", "14.0.0"),
        ("ccache version 4.7.5\nFeatures: file-storage", "4.7.5"),
        ("GNU gold (GNU Binutils 2.38) 1.16", "1.16"),
        ("tool (2.5)", "2.5"),
    ],
)
def test_tool_versions(tree: Tree, printed: str, version: str) -> None:
    system = tree({"x": ""}, {"ld": f"cat <<'E'\n{printed}\nE"})
    assert look(system).tools["ld"].version == version


def test_this_machine_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    found = look(System())
    assert found.os and found.arch and found.cores and found.memory_total
    assert found.open_files_soft is None or found.open_files_soft > 0
    assert set(found.unknown) <= {"libstdcxx", "cpu_model", "pip_index", "uv_index", "shm_total"}

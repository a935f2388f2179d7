"""The machine under everything: release, processor, memory, programs."""

from __future__ import annotations

from machines.describe import Machine
from machines.npus import sourced
from machines.tree import Tree

TOOLS = {"gcc": "13.3.0", "g++": "13.3.0", "ld": "2.42", "make": "4.3", "git": "2.43.0",
         "rustc": "1.90.0", "cargo": "1.90.0", "maturin": "1.9.4"}  # fmt: skip
SAY = {"ld": "GNU ld (GNU Binutils) {}", "make": "GNU Make {}", "git": "git version {}",
       "cmake": "cmake version {}", "rustc": "rustc {} (0123456789 2025-09-14)",
       "cargo": "cargo {} (0123456789 2025-07-30)", "gcc": "gcc (GCC) {}", "g++": "g++ (GCC) {}",
       "clang": "Ubuntu clang version {} (1ubuntu1)", "uv": "uv {}"}  # fmt: skip

DISTROS = {
    "ubuntu": ("ubuntu", "24.04", "debian", "Ubuntu 24.04.3 LTS"),
    "debian": ("debian", "12", "", "Debian GNU/Linux 12 (bookworm)"),
    "debian13": ("debian", "13", "", "Debian GNU/Linux 13 (trixie)"),
    "rocky": ("rocky", "9.6", "rhel centos fedora", "Rocky Linux 9.6 (Blue Onyx)"),
    "centos": ("centos", "7", "rhel fedora", "CentOS Linux 7 (Core)"),
    "alpine": ("alpine", "3.22.0", "", "Alpine Linux v3.22"),
    "openeuler": ("openEuler", "22.03", "", "openEuler 22.03 (LTS-SP4)"),
}


def write_host(tree: Tree, machine: Machine) -> None:
    """Write what describes the system."""
    name, version, like, pretty = DISTROS[machine.distro]
    tree.file(
        "/etc/os-release",
        f'PRETTY_NAME="{pretty}"\nVERSION_ID="{version}"\nID="{name}"\nID_LIKE="{like}"\n',
    )
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/home/user"} | sourced(machine)
    env |= machine.env
    tree.file("/etc/environment", "".join(f"{k}={v}\n" for k, v in env.items()))
    processor = (
        "CPU implementer\t: 0x48\nCPU part\t: 0xd01\nFeatures\t: fp asimd\n"
        if machine.arch == "aarch64"
        else "model name\t: AMD EPYC 9654\ncpu cores\t: 4\nflags\t\t: fpu avx2 avx512f\n"
    )
    cores = (f"processor\t: {i}\n{processor}" for i in range(4))
    tree.file("/proc/cpuinfo", "\n".join(cores))
    kib = machine.memory << 20
    tree.file(
        "/proc/meminfo",
        f"MemTotal:       {kib} kB\nMemAvailable:   {kib * 3 // 4} kB\nSwapTotal:      0 kB\n",
    )
    tree.file("/proc/mounts", "/dev/sda1 / ext4 rw 0 0\ntmpfs /dev/shm tmpfs rw,nosuid,nodev 0 0\n")
    tree.file("/proc/sys/kernel/osrelease", f"{machine.kernel}\n")
    tree.program(
        "uname",
        f'case "$1" in -m) echo {machine.arch};; -r) echo {machine.kernel};; *) echo Linux;; esac',
    )
    tree.program("id", "echo 'uid=1001(user) gid=1001(user) groups=1001(user),1000(HwHiAiUser)'")
    if machine.glibc:
        tree.program("getconf", f'[ "$1" = GNU_LIBC_VERSION ] && echo "glibc {machine.glibc}"')
    else:
        tree.file(f"/lib/ld-musl-{machine.arch}.so.1")
    for tool, release in (TOOLS | machine.tools).items():
        if release is None:
            continue
        say = SAY.get(tool, f"{tool} {{}}").format(release)
        bare = f'[ "$1" = -dumpfullversion ] && echo {release} && exit; ' if "g" in tool else ""
        tree.program(tool, f"{bare}echo '{say}'")

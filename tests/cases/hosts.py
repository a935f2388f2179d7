"""Python, system, limits, compilers, toolkits, Rust, data."""

from __future__ import annotations

from dataclasses import replace

from machines import Machine

from cases.describe import (
    BASE,
    NO_TOOLCHAIN,
    POINTER,
    SHARDS,
    Case,
    case,
    container,
    parquet,
    pc,
    torch,
    wsl,
)

HOSTS: dict[str, Case] = {
    # --- Python and system -------------------------------------------------------------------------
    "torch needs a newer glibc": case(
        Machine(torch=torch("cpu", glibc="2.28"), glibc="2.17", distro="centos"), "host.glibc-too-old",
        says=("GLIBC_2.28", "2.17"),
    ),
    "wheel for a newer glibc, by its tag": case(
        Machine(torch="cpu", glibc="2.17", distro="centos"), "host.glibc-too-old",
    ),
    "glibc 2.17 holds torch at 2.6": case(
        pc("RTX 4090", driver="535.183.01", torch=None, glibc="2.17", distro="centos"),
        "torch.missing", "host.glibc-too-old", says=("2.6.0",),
    ),
    "glibc 2.17, a card that needs a later torch": case(
        pc("RTX 5090", torch=None, glibc="2.17", distro="centos"), "torch.missing host.glibc-too-old"
    ),
    "musl": case(Machine(glibc=None, distro="alpine"), "torch.missing host.glibc-too-old"),
    "Python 3.8": case(Machine(python="3.8.10"), "host.python-too-old torch.missing"),
    "Python 3.9": case(Machine(python="3.9.21"), "host.python-too-old torch.missing"),
    "Python 3.15": case(pc("RTX 4090", python="3.15.0", torch=None), "torch.missing"),
    "Python 3.15 with a card that only old wheels serve": case(
        pc("GTX 1080", python="3.15.0", torch=None), "host.python-too-new torch.missing", says=("3.14",)
    ),
    "Python 3.16": case(Machine(python="3.16.0"), "host.python-too-new torch.missing", says=("3.15",)),
    "Python 3.13t": case(Machine(python="3.13.5t", rustbpe=None), "torch.missing"),
    "Python 3.12t": case(
        Machine(python="3.12.1t", rustbpe=None), "host.python-too-old torch.missing",
    ),
    "32-bit Python": case(
        Machine(files={"/usr/lib/python3.12/lib-dynload/_ssl.so": b"\x7fELF\x01\x01\x01" + bytes(60)}),
        "host.python-32bit torch.missing",
    ),
    "32-bit system": case(
        Machine(programs={"uname": "case $1 in -m) echo armv7l;; *) echo Linux;; esac"}, rustbpe=None),
        "host.python-32bit torch.missing",
    ),
    "the distribution's Python": case(
        Machine(torch="cpu", prefix="/usr", files={"/usr/lib/python3.12/EXTERNALLY-MANAGED": ""}),
        warnings="host.externally-managed",
    ),
    "the distribution's Python, pip told to go on": case(
        Machine(torch="cpu", prefix="/usr", files={"/usr/lib/python3.12/EXTERNALLY-MANAGED": ""},
                env={"PIP_BREAK_SYSTEM_PACKAGES": "1"}),
    ),
    "no ensurepip": case(
        Machine(torch="cpu", prefix="/usr", files={"/usr/lib/python3.12/os.py": ""}),
        warnings="host.venv-missing",
    ),
    "headers there": case(Machine(torch="cpu", files={"/usr/include/python3.12/Python.h": ""})),
    "headers missing": case(
        Machine(torch="cpu", files={"/usr/include/stdio.h": ""}), warnings="host.python-headers-missing",
        says=("python3.12-dev|python3-dev",),
    ),
    "headers, torch in Debian's /usr/local": case(
        Machine(torch="cpu", prefix="/usr/local", site_name="dist-packages",
                files={"/usr/include/python3.12/Python.h": "",
                       "/usr/lib/python3.12/ensurepip/__init__.py": ""},
                without=("/usr/local/bin/python", "/usr/local/bin/python3")),
    ),
    "Debian's Python, nothing installed": case(
        Machine(prefix="/usr/local", site_name="dist-packages", rustbpe=None,
                files={"/usr/lib/python3.12/EXTERNALLY-MANAGED": ""},
                without=("/usr/local/bin/python", "/usr/local/bin/python3")),
        "torch.missing", "host.externally-managed", never=("/usr/local/bin/python3",),
    ),
    "2 GiB of memory": case(Machine(torch="cpu", memory=2), warnings="host.memory-low"),
    "control group with little memory": case(
        container(Machine(torch="cpu", files={"/sys/fs/cgroup/memory.max": f"{2 << 30}\n"})),
        warnings="host.memory-low", says=("control group",),
    ),
    "control group without a limit": case(
        Machine(torch="cpu", files={"/sys/fs/cgroup/memory.max": "max\n"})
    ),
    "Docker's 64 MiB of shared memory": case(
        container(pc("2 * RTX 4090", files={
            "/proc/mounts": "shm /dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=65536k 0 0\n"})),
        warnings="host.shm-too-small", says=("--shm-size",),
    ),
    "shared memory of 64 MiB, in other words": case(
        container(Machine(torch="cpu", files={"/proc/mounts": "tmpfs /dev/shm tmpfs rw,size=64m 0 0\n"})),
        warnings="host.shm-too-small",
    ),
    "few open files": case(
        Machine(torch="cpu", files={
            "/proc/self/limits": "Max open files            256                  4096      files\n"}),
        warnings="host.open-files-limit",
    ),
    "no compiler": case(
        Machine(torch="cpu", tools={"gcc": None, "g++": None}), warnings="host.compiler-missing",
        says=("apt",),
    ),
    "no linker": case(Machine(torch="cpu", tools={"ld": None}), warnings="host.compiler-missing"),
    "clang alone": case(Machine(torch="cpu", tools={"gcc": None, "g++": None, "clang": "18.1.3"})),
    "WSL without libcuda on the path": case(
        replace(wsl(torch="cu128"), programs={"/usr/sbin/ldconfig": "echo '0 libs found'"}), "host.wsl"
    ),
    "WSL 1": case(
        Machine(torch="cpu", kernel="4.4.0-19041-Microsoft"), warnings="host.wsl",
        never=("Ubuntu 24.04.3 LTS 2",),
    ),
    # --- CUDA toolkits ------------------------------------------------------------------------------
    "nvcc 12.4, RTX 5090": case(
        pc("RTX 5090", toolkits=("12.4",)), warnings="cuda.toolkit-too-old-for-arch", says=("12.8",),
    ),
    "nvcc 11.8, torch of CUDA 12": case(
        pc("RTX 4090", toolkits=("11.8",), tools={"gcc": "11.4.0", "g++": "11.4.0"}),
        warnings="cuda.toolkit-mismatch",
    ),
    "nvcc 11.8, torch of CUDA 13": case(
        pc("A100", torch="cu130", toolkits=("11.8",), tools={"gcc": "11.4.0", "g++": "11.4.0"}),
        warnings="cuda.toolkit-mismatch",
    ),
    "gcc 15, nvcc 12.8": case(
        pc("RTX 4090", toolkits=("12.8",), tools={"gcc": "15.1.0", "g++": "15.1.0"}),
        warnings="cuda.host-compiler-unsupported", says=("gcc 14",),
    ),
    "CUDA_HOME before /usr/local/cuda": case(
        pc("RTX 5090", toolkits=("12.4", "12.8"), env={"CUDA_HOME": "/usr/local/cuda-12.8"})
    ),
    # --- Rust ----------------------------------------------------------------------------------------
    "Rust of Debian 12": case(
        Machine(torch="cpu", rustbpe=None, tools={"rustc": "1.63.0", "cargo": "1.63.0"}),
        warnings="rust.too-old", infos="rustbpe.missing",
    ),
    "no Rust": case(
        Machine(torch="cpu", rustbpe=None, tools={"rustc": None, "cargo": None}),
        warnings="rust.missing", infos="rustbpe.missing",
    ),
    "no Rust, and none needed": case(Machine(torch="cpu", tools={"rustc": None, "cargo": None})),
    "cargo off the PATH": case(
        Machine(torch="cpu", rustbpe=None, tools={"rustc": None, "cargo": None},
                programs={"/home/user/.cargo/bin/cargo": "echo cargo 1.90.0"}),
        warnings="rust.missing", infos="rustbpe.missing", says=(r"\.cargo/env",),
    ),
    "rustup without a toolchain": case(
        Machine(torch="cpu", rustbpe=None,
                programs={"rustc": NO_TOOLCHAIN, "cargo": NO_TOOLCHAIN}),
        warnings="rust.missing",
    ),
    "rustbpe for another Python": case(
        Machine(torch="cpu", rustbpe="310"), warnings="rustbpe.stale", says=("cp310", "cp312")
    ),
    # --- data ----------------------------------------------------------------------------------------
    "whole files": case(
        Machine(torch="cpu", files={
            f"{SHARDS}/shard_00000.parquet": parquet(),
            f"{BASE}/tokenizer/tokenizer.pkl": b"\x80\x04K\x01.",
        })
    ),
    "a shard cut short": case(
        Machine(torch="cpu", files={f"{SHARDS}/shard_00000.parquet": parquet(),
                                    f"{SHARDS}/shard_00001.parquet": parquet()[:-9]}),
        "data.corrupt", says=("1 of 2", "shard_00001"),
    ),
    "a shard that is a pointer": case(
        Machine(torch="cpu", files={f"{SHARDS}/shard_00000.parquet": POINTER}), "hub.lfs-pointer"
    ),
    "a tokenizer that is a pointer": case(
        Machine(torch="cpu", files={f"{BASE}/tokenizer/tokenizer.pkl": POINTER}), "hub.lfs-pointer"
    ),
    "a tokenizer cut short": case(
        Machine(torch="cpu", files={f"{BASE}/tokenizer/tokenizer.pkl": b"\x80\x04K"}), "tokenizer.corrupt"
    ),
    "a checkpoint cut short": case(
        Machine(torch="cpu", env={"NANOCHAT_BASE_DIR": "/data"},
                files={"/data/base_checkpoints/d20/model_021400.pt": b"PK\x03\x04" + bytes(64)}),
        "train.checkpoint-corrupt", says=("model_021400",),
    ),
}  # fmt: skip

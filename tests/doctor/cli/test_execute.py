"""A tree below --root is read; programs of it run only with --execute, and its files lead to nothing outside."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from cases import CASES
from conftest import Doctor
from machines import Machine, build, elf, nvidia
from verdicts import TABLES

from doctor.errors import Unknown
from doctor.facts import Facts, to_json
from doctor.findings.finding import ERROR, WARNING
from doctor.findings.rules.examine import examine
from doctor.machine.system import NOT_RUN, ROOT_PROGRAM_FOLDERS, System
from doctor.probe.host.identity import program_version, uname
from doctor.probe.survey import survey

COMMANDS = [
    ("check", "--json"), ("facts",), ("plan", "--json"), ("check", "--deep", "--network"),
    ("build-torch", "--dry-run", "--arch", "12.0"),
]  # fmt: skip


@pytest.fixture(scope="module")
def booby_trapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine every program of which leaves a trace outside of it when it is run."""
    folder = tmp_path_factory.mktemp("trapped")
    trace = folder / "trace"
    machine = Machine(nvidia=nvidia("RTX 5090"), torch="cu130", toolkits=("12.8",))
    root = build(machine, folder / "root")
    names = "gcc g++ clang ld cmake ninja make ccache git uv patchelf nvidia-smi npu-smi nvcc rustc cargo id"
    names += " maturin uname getconf lscpu ldconfig systemctl python3 sysctl"
    for place in ROOT_PROGRAM_FOLDERS:
        (root / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
        for name in names.split():
            program = root / place.lstrip("/") / name
            program.write_text(f"#!/bin/sh\necho {place}/{name} >>{trace}\nexit 1\n")
            program.chmod(0o755)
    return root


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_program_of_a_tree_is_run(
    doctor: Doctor, booby_trapped: Path, words: tuple[str, ...]
) -> None:
    trace = booby_trapped.parent / "trace"
    answer = doctor("--root", str(booby_trapped), *words)
    assert answer.out
    assert not trace.exists(), trace.read_text()


def test_programs_run_with_execute(doctor: Doctor, booby_trapped: Path) -> None:
    trace = booby_trapped.parent / "trace"
    doctor("--root", str(booby_trapped), "--execute", "check")
    ran = trace.read_text()
    trace.unlink()
    assert "nvidia-smi" in ran and "uname" in ran


def test_execute_needs_a_tree(doctor: Doctor) -> None:
    answer = doctor("--execute", "check")
    assert answer.status == 2
    assert "--root DIR" in answer.err


def test_help_says_what_execute_does(doctor: Doctor) -> None:
    text = " ".join(doctor("--help").out.split())
    assert re.search(r"--execute .*code, with your rights", text)


# --- what files tell instead ------------------------------------------------------------------

STATUS = """Package: gcc
Status: install ok installed
Architecture: amd64
Version: 4:13.2.0-7ubuntu1

Package: gcc-13
Status: install ok installed
Version: 13.3.0-6ubuntu2~24.04

Package: cmake
Status: deinstall ok config-files
Version: 3.20.1-1

Package: git
Status: install ok installed
Version: 1:2.43.0-1ubuntu7.3

Package: binutils
Status: install ok installed
Version: 2.42-4ubuntu2.5
"""


def tree(root: Path, **files: str | bytes) -> System:
    """A System over files, with `__` for `/`; names that end with `!` can be run."""
    for name, data in files.items():
        place = root / name.replace("__", "/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data.encode() if isinstance(data, str) else data)
    return System(root)


def program(root: Path, *paths: str) -> None:
    for path in paths:
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("#!/bin/sh\nexit 1\n")
        place.chmod(0o755)


def test_versions_of_the_package_manager(tmp_path: Path) -> None:
    program(
        tmp_path, "usr/bin/x86_64-linux-gnu-gcc-13", "usr/bin/git", "usr/bin/ld", "usr/bin/cmake"
    )
    (tmp_path / "usr/bin/gcc").symlink_to("x86_64-linux-gnu-gcc-13")
    system = tree(tmp_path, var__lib__dpkg__status=STATUS)
    assert program_version(system, "gcc", ()) == "13.3.0"
    assert program_version(system, "git", ()) == "2.43.0"
    assert program_version(system, "ld", ()) == "2.42"
    with pytest.raises(Unknown, match="--execute"):
        program_version(system, "cmake", ())


def test_versions_of_alpine(tmp_path: Path) -> None:
    program(tmp_path, "usr/bin/gcc")
    system = tree(
        tmp_path, lib__apk__db__installed="P:gcc\nV:14.2.0-r6\nA:x86_64\n\nP:git\nV:2.49.1-r0\n"
    )
    assert program_version(system, "gcc", ()) == "14.2.0"


def test_a_compiler_tells_its_version_by_its_folder(tmp_path: Path) -> None:
    program(tmp_path, "usr/bin/gcc")
    (tmp_path / "usr/lib/gcc/x86_64-redhat-linux/14").mkdir(parents=True)
    assert program_version(System(tmp_path), "gcc", ()) == "14"
    (tmp_path / "usr/lib/gcc/x86_64-redhat-linux/13").mkdir()
    with pytest.raises(Unknown):
        program_version(System(tmp_path), "gcc", ())


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_architecture_and_kernel_by_files(tmp_path: Path, arch: str) -> None:
    system = tree(tmp_path, usr__lib__libc=elf("libc.so.6", arch=arch))
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64/libc.so.6").symlink_to("/usr/lib/libc")
    (tmp_path / "lib/modules/6.8.0-31-generic").mkdir(parents=True)
    assert [uname(system, option) for option in ("-s", "-r", "-m")] == [
        "Linux", "6.8.0-31-generic", arch,
    ]  # fmt: skip


def test_what_no_file_tells_is_unknown_with_the_reason(tmp_path: Path) -> None:
    program(tmp_path, "usr/bin/uname")
    for option in ("-s", "-r", "-m"):
        with pytest.raises(Unknown, match="--execute"):
            uname(System(tmp_path), option)


def test_cards_and_driver_by_files(tmp_path: Path) -> None:
    machine = Machine(nvidia=nvidia("2 * RTX 5090", driver="580.95.05"), torch="cu130")
    facts = survey(System(build(machine, tmp_path)), TABLES, debug=True)
    assert facts.nvidia is not None and facts.host is not None
    assert [gpu.compute_capability for gpu in facts.nvidia.gpus] == ["12.0", "12.0"]
    assert facts.nvidia.driver_version == "580.95.05"
    assert facts.nvidia.unknown["gpus"] == NOT_RUN
    assert facts.host.arch == "x86_64"
    assert {f.code for f in examine(facts, TABLES) if f.severity == ERROR} == set()


SAMPLE = [name for number, name in enumerate(CASES) if number % 24 == 3]


@pytest.mark.parametrize("name", SAMPLE)
def test_what_is_not_known_is_no_alarm(name: str, tmp_path: Path) -> None:
    root = build(CASES[name].machine, tmp_path)
    said = [
        {(f.severity, f.code) for f in examine(survey(system, TABLES, debug=True), TABLES)}
        for system in (System(root), System(root, execute=True))
    ]
    new = {(s, code) for s, code in said[0] - said[1] if s in (ERROR, WARNING)}
    assert not new


# --- files that are none ----------------------------------------------------------------------

READ = (
    "etc/os-release etc/environment etc/ld.so.cache etc/pip.conf proc/cpuinfo proc/meminfo proc/mounts "
    "proc/sys/kernel/osrelease proc/driver/nvidia/version var/lib/dpkg/status usr/local/cuda/version.json "
    "opt/venv/pyvenv.cfg opt/venv/lib/python3.12/site-packages/torch/version.py "
    "opt/venv/lib/python3.12/site-packages/torch/lib/libtorch_cuda.so bin/sh lib64/libc.so.6"
).split()


@pytest.mark.parametrize("kind", ["fifo", "device", "link to a device", "folder", "link to /proc"])
def test_nothing_but_files_is_read(kind: str, tmp_path: Path) -> None:
    root = build(Machine(torch="cpu"), tmp_path)
    for path in READ:
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_symlink() or place.exists():
            place.unlink()
        if kind == "fifo":
            os.mkfifo(place)
        elif kind == "device":
            try:
                os.mknod(place, 0o20666, os.makedev(1, 5))  # /dev/zero
            except PermissionError:
                pytest.skip("this user makes no device nodes")
        elif kind == "folder":
            place.mkdir()
        else:
            place.symlink_to("/dev/zero" if "device" in kind else "/proc/self/environ")
    facts = survey(System(root), TABLES, debug=True)
    assert facts.host is not None and facts.torch is not None
    shown = str(to_json(facts))
    assert "PYTEST_CURRENT_TEST" not in shown
    assert isinstance(facts, Facts)

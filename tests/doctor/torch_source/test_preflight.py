"""What stands in the way is found before the first object, all at once, each with a cure."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from doctor.compile.source.build_tools import Programs, look_at_programs
from doctor.compile.source.read_tree import read_tree
from doctor.compile.torch.preflight import preflight
from doctor.facts import Facts, Python
from doctor.findings.finding import Finding
from doctor.knowledge.tables import Tables
from doctor.machine.system import System
from doctor.planner.build.draft import draft
from doctor.planner.build.toolchain import Compiler
from doctor.planner.build.tree import Tree, expected_tree
from doctor.planner.terms.plan import Wishes
from torch_source.standins import Shape, git, make_tree
from torch_source.test_planning import machine, toolkit, tools

TABLES = Tables()
ALL_THERE = Programs(
    cmake="/usr/bin/cmake",
    cmake_version="3.31.6",
    ninja="/usr/bin/ninja",
    ninja_version="1.12.1",
    distributions={"setuptools": "80.0", "wheel": "0.45"},
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return read_tree(make_tree(tmp_path_factory.mktemp("t") / "pytorch", Shape(ops=1)), TABLES)


def look(
    facts: Facts,
    tree: Tree | None,
    programs: Programs = ALL_THERE,
    others: Sequence[Compiler] = (),
) -> dict[str, Finding]:
    """Findings by code, but for libraries and disk, which are those of the machine that runs this."""
    chosen = draft(facts, TABLES, Wishes(), others=others)
    found = preflight(System(), facts, TABLES, chosen, tree, programs)
    codes = [f"{f.code} {f.severity}" for f in found]
    assert codes == sorted(codes, key=lambda c: c.endswith("warning")), "errors come first"
    elsewhere = ("cuDNN", "BLAS", "objects and libraries of a whole PyTorch")
    return {f.code: f for f in found if not any(word in f.cause for word in elsewhere)}


def test_nothing_stands_in_the_way(tree: Tree) -> None:
    assert look(machine("12.0", toolkits=[toolkit("13.0")]), tree) == {}


def test_gcc_15_with_cuda_12_8(tree: Tree) -> None:
    facts = machine("12.0", toolkits=[toolkit("12.8")], gcc="15.1.0")
    found = look(facts, tree)
    assert list(found) == ["cuda.host-compiler-unsupported"]
    assert found["cuda.host-compiler-unsupported"].remedy.commands
    assert look(facts, tree, others=[Compiler("gcc", "14.2.0", "gcc-14", "g++-14")]) == {}


def test_cmake_4_with_old_projects(tree: Tree) -> None:
    """Helped by a variable where the version is known to need it, else an error."""
    programs = replace(ALL_THERE, cmake_version="4.1.0")
    old = replace(tree, version="2.6.0a0", old_projects=("third_party/protobuf/cmake",))
    finding = look(machine(), old, programs)["build.cmake-policy"]
    assert finding.severity == "warning" and "CMAKE_POLICY_VERSION_MINIMUM=3.5" in finding.cause
    unexpected = replace(old, version="2.9.0")
    assert look(machine(), unexpected, programs)["build.cmake-policy"].severity == "error"
    assert look(machine(), tree, programs) == {} == look(machine(), old)


def test_a_release_is_known_before_it_is_cloned(tmp_path: Path) -> None:
    """What cannot be built is said at once, and not after a gigabyte."""
    newest = expected_tree(tmp_path / "v2.15.0", "2.15.0", TABLES)
    debian_12 = replace(ALL_THERE, cmake_version="3.25.1")
    found = look(machine(gcc="10.2.1"), newest, debian_12)
    assert set(found) == {
        "build.cmake-too-old", "build.compiler-too-old", "build.dependency-missing"
    }  # fmt: skip
    assert "older than 3.27" in found["build.cmake-too-old"].cause
    assert all("build/recipes.toml" in "".join(f.evidence) for f in found.values())
    missing = found["build.dependency-missing"].cause
    assert "scikit-build-core>=1.0" in missing and missing.endswith(" and pip."), missing
    assert expected_tree(tmp_path, "1.7.1", TABLES) is None


def test_cmake_too_old(tree: Tree) -> None:
    found = look(machine(), tree, replace(ALL_THERE, cmake_version="3.16.3"))
    assert "'cmake>=3.18'" in found["build.cmake-too-old"].remedy.commands[0]


def test_no_cmake_no_ninja_no_packages(tree: Tree) -> None:
    """What pip could install is asked for in one command each."""
    found = look(machine(), tree, Programs(distributions={}))
    assert {"build.ninja-missing", "build.dependency-missing"} <= set(found)
    assert "setuptools wheel cmake ninja" in found["build.dependency-missing"].remedy.commands[0]


def test_missing_submodules(tree: Tree, tmp_path: Path) -> None:
    empty = read_tree(make_tree(tmp_path / "pytorch", Shape(ops=1, submodule=False)), TABLES)
    finding = look(machine(), empty)["build.submodules-missing"]
    assert finding.severity == "error" and "third_party/tensorpipe" in finding.cause
    command = finding.remedy.commands[0]
    assert command.startswith(f"git -C {empty.path} submodule update --init")
    words = command.replace("--depth 1", "").split()[3:]
    git(empty.path, *words)
    assert read_tree(empty.path, TABLES).missing == ()


def test_no_python_headers(tree: Tree) -> None:
    facts = machine()
    facts = replace(facts, python=replace(facts.python or Python(), headers=None))
    finding = look(facts, tree)["host.python-headers-missing"]
    assert finding.remedy.commands == ("sudo apt-get install -y python3.12-dev",)


def test_python_and_numpy_against_pytorch(tree: Tree) -> None:
    facts = machine()
    python = replace(facts.python or Python(), version="3.14.0", packages={"numpy": "2.1.0"})
    found = look(replace(facts, python=python), replace(tree, version="2.2.0", python="3.15"))
    assert set(found) == {"host.python-too-old", "host.python-too-new", "torch.version-conflict"}


def test_cuda_against_pytorch(tree: Tree) -> None:
    old = replace(tree, version="2.6.0")
    found = look(machine("12.0", toolkits=[toolkit("13.0")]), old)
    assert list(found) == ["cuda.toolkit-mismatch"]
    assert "up to 12.6" in found["cuda.toolkit-mismatch"].cause
    assert look(machine("9.0", toolkits=[toolkit("12.8")]), old) == {}


def test_musl_is_warned_of(tree: Tree) -> None:
    assert list(look(machine(libc="musl"), tree)) == ["host.glibc-too-old"]


def test_a_compiler_that_is_too_old(tree: Tree) -> None:
    found = look(machine(tools=tools(gcc="8.5.0", gxx="8.5.0")), tree)
    assert found["build.compiler-too-old"].remedy.commands == (
        "sudo apt-get install -y gcc-11 g++-11",
    )


def test_a_tree_from_the_future(tree: Tree) -> None:
    file = tree.path / "CMakeLists.txt"
    status = file.stat()
    try:
        os.utime(file, (time.time() + 7200, time.time() + 7200))
        finding = look(machine(), tree)["build.failed"]
        assert "in the future" in finding.cause and "touch" in finding.remedy.commands[0]
    finally:
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_few_open_files(tree: Tree) -> None:
    found = look(machine(open_files_soft=256, open_files_hard=4096), tree)
    assert found["host.open-files-limit"].remedy.commands == ("ulimit -n 4096",)


def test_programs_beside_the_interpreter_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, version in (("venv", "4.1.0"), ("usr", "3.25.1")):
        (tmp_path / folder).mkdir()
        for name in ("cmake", "g++-13"):
            file = tmp_path / folder / name
            file.write_text(f"#!/bin/sh\necho {name} version {version}\n")
            file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "usr"))
    found = look_at_programs(System(), str(tmp_path / "venv" / "python"))
    assert found.cmake == str(tmp_path / "venv" / "cmake") and found.cmake_version == "4.1.0"
    assert found.ninja is None
    assert [c.cxx for c in found.compilers] == [str(tmp_path / "usr" / "g++-13")]

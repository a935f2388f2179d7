"""Whole builds of a tree that stands in for PyTorch's: real compilers, real CUDA, real libuv, real ranks."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from doctor.compile.torch.install_wheel import install_wheel
from doctor.machine import fatbin
from doctor.machine.elf import Elf
from torch_source.standins import Toolbox

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def archs_in(wheel: Path, library: str = "torch/lib/libtorch_cuda.so") -> set[str]:
    """Architectures of the machine code in a wheel's library."""
    with zipfile.ZipFile(wheel) as archive:
        counts = fatbin.read(Elf(archive.read(library))).counts
    return {arch for (arch, kind), n in counts.items() if kind == fatbin.SASS and n}


def test_for_12_0_with_libuv(workshop: Any, tools: Toolbox) -> None:
    """The command of the issue, down to a TCPStore with libuv and two ranks; then from the cache."""
    tree = workshop.tree()
    out = workshop.folder / "out"
    wish = ("--arch", "sm_120", "--libuv", "--cuda-home", str(tools.cuda_home), "--json")
    done = workshop.run(tree, *wish, "--out", str(out))
    assert done.status == 0, done.out + done.err
    read = done.event("read")
    assert read["archs"] == ["12.0"] and read["libuv"] is True and read["nccl"] is True
    assert read["missing_libraries"] == []
    checks = {e["name"]: e["ok"] for e in done.events if e["event"] == "check"}
    assert checks == {"import": True, "TCPStore with libuv": True, "two ranks, gloo": True}
    wheel = Path(done.event("done")["wheel"])
    assert wheel.parent == out and archs_in(wheel) == {"12.0"}
    commit = subprocess.run(
        ["git", "-C", str(tree), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout[:7]
    assert f"+git{commit}.cu135.sm120-" in wheel.name
    progress = [e for e in done.events if e["event"] == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"] > 6
    with zipfile.ZipFile(wheel) as archive:
        assert b"16LibUVStoreDaemonE" in archive.read("torch/lib/libtorch_cpu.so")

    again = workshop.run(tree, *wish)
    assert again.status == 0 and Path(again.event("cached")["wheel"]).name == wheel.name
    assert not any(e["event"] == "program" for e in again.events)

    (tree / "torch" / "csrc" / "ops" / "op_0.cpp").write_text(
        "int torch_op_0(int n) { return n; }\n"
    )
    changed = workshop.run(tree, *wish, "--resume")
    assert changed.status == 1 and "source (" in changed.err, changed.err


def test_a_tree_without_setup_py(workshop: Any, tools: Toolbox) -> None:
    """PyTorch from 2.15 on: scikit-build-core configures and packs, ninja is run as before, with the pool.

    What the first stage configured is not compiled again when the wheel is packed. Two architectures, and PTX.
    """
    tree = workshop.tree(pep517=True, ops=1)
    wish = ("--arch", "9.0,12.0+PTX", "--libuv", "--jobs", "3", "--cuda-home", str(tools.cuda_home))
    done = workshop.run(tree, *wish, "--json")
    assert done.status == 0, done.out + done.err
    read = done.event("read")
    assert (read["archs"], read["ptx"]) == (["9.0", "12.0"], ["12.0"])
    assert read["libuv"] is True and read["nccl"] is True
    assert all(e["ok"] for e in done.events if e["event"] == "check")
    assert done.event("jobs")["heavy_objects"] == 1
    progress = [e for e in done.events if e["event"] == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"] > 6
    log = Path(done.event("start")["log"]).read_text()
    assert log.count("Building CXX object CMakeFiles/c10.dir/c10/Error.cpp.o") == 1
    assert "sm90.sm120.ptx" in done.event("done")["version"]
    made = workshop.folder / "base" / "torch-builds" / "made"
    assert not list(made.glob("*/scratch")), "the wheel of nothing, packed to configure, is gone"


def test_without_libuv(workshop: Any) -> None:
    tree = workshop.tree(ops=1)
    done = workshop.run(tree, "--no-libuv", "--json")
    assert done.status == 0, done.err
    assert done.event("read")["libuv"] is False
    assert [e["name"] for e in done.events if e["event"] == "check"] == [
        "import",
        "two ranks, gloo",
    ]
    left = {
        wish: workshop.run(tree, wish, "--dry-run", "--json").event("plan")["hours"]
        for wish in ("--no-libuv", "--libuv")
    }
    assert left["--no-libuv"] == 0 < left["--libuv"], "other settings begin anew"
    python = workshop.folder / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", python.parents[1]], check=True)
    install_wheel(Path(done.event("done")["wheel"]), str(python))
    shown = [python, "-c", "import torch; print(torch.__version__)"]
    version = subprocess.run(shown, capture_output=True, text=True, check=True).stdout.strip()
    assert version == done.event("done")["version"]


@pytest.mark.parametrize(
    ("wish", "forced", "said"),
    [
        ("--libuv", "set(USE_TENSORPIPE OFF)", "libuv is not in it"),
        ("--no-libuv", "set(USE_TENSORPIPE ON)", "the tree ignores USE_TENSORPIPE=0"),
    ],
)
def test_a_tree_that_ignores_the_flag_is_found_out(
    workshop: Any, wish: str, forced: str, said: str
) -> None:
    """The flag was right and the build went through: only the product tells."""
    tree = workshop.tree(ops=1)
    file = tree / "cmake" / "Dependencies.cmake"
    file.write_text(f"{forced}\n{file.read_text()}")
    done = workshop.run(tree, wish)
    assert done.status == 1 and "not what was asked" in done.err and said in done.err, done.err
    assert not list((workshop.folder / "base" / "torch-builds" / "wheels").glob("*/*.whl"))


def test_a_tree_that_ignores_the_architecture_is_found_out(workshop: Any, tools: Toolbox) -> None:
    tree = workshop.tree(ops=1)
    (tree / "aten" / "Add.cu").unlink()
    file = tree / "CMakeLists.txt"
    file.write_text(file.read_text().replace("IN LISTS TORCH_CUDA_ARCH_LIST", "IN ITEMS 9.0 12.0"))
    done = workshop.run(tree, "--arch", "10.0", "--no-libuv", "--cuda-home", str(tools.cuda_home))
    assert done.status == 1, done.err
    assert "it has no code for 10.0, only for 9.0 and 12.0" in done.err
    assert "it has code for 9.0 and 12.0 that was not asked for" in done.err


def test_a_failing_object(workshop: Any) -> None:
    """It ends with the object, the compiler's own words, and the way on; mended, it goes on."""
    tree = workshop.tree(files={"torch/csrc/ops/bad.cpp": "int bad() { return no_such_name; }\n"})
    done = workshop.run(tree, "--no-libuv")
    assert done.status == 1
    assert "torch_cpu.dir/torch/csrc/ops/bad.cpp.o: a compiler failed (build.failed)" in done.err
    assert "'no_such_name' was not declared in this scope" in done.err
    assert "Traceback" not in done.err

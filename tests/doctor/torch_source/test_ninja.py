"""Reading ninja, and the pool for heavy objects, with the real program where it is installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from doctor.compile.ninja import ninja
from torch_source.standins import Toolbox

PLAN = """\
ninja_required_version = 1.5
# =
rule CXX_COMPILER__torch_cpu_unscanned_Release
  command = /usr/bin/c++ -o $out -c $in

rule CUDA_COMPILER__torch_cuda_unscanned_Release
  command = nvcc -o $out -c $in

build a.dir/x.cpp.o: CXX_COMPILER__torch_cpu_unscanned_Release /s/x.cpp || order
  FLAGS = -O3
build c.dir/flash_fwd_hdim64.cu.o: CUDA_COMPILER__torch_cuda_unscanned_Release /s/f.cu
  FLAGS = -O3
build c.dir/with$ space.cpp.o: CXX_COMPILER__torch_cpu_unscanned_Release /s/y.cpp

build lib/x.so: CXX_SHARED_LIBRARY_LINKER__torch_cpu_Release a.dir/x.cpp.o
"""


def test_objects_of_a_plan() -> None:
    assert ninja.objects(PLAN) == [
        "a.dir/x.cpp.o",
        "c.dir/flash_fwd_hdim64.cu.o",
        "c.dir/with space.cpp.o",
    ]


def test_a_pool_is_set_changed_and_taken_out(tmp_path: Path) -> None:
    plan = tmp_path / "build.ninja"
    plan.write_text(PLAN)
    stamp = plan.stat().st_mtime_ns
    assert ninja.set_pool(plan, lambda name: "flash" in name, 3) == 1
    text = plan.read_text()
    assert f"pool {ninja.POOL}\n  depth = 3\n" in text and plan.stat().st_mtime_ns == stamp
    assert f"unscanned_Release /s/f.cu\n  pool = {ninja.POOL}\n  FLAGS" in text
    assert ninja.set_pool(plan, lambda name: name.endswith(".cpp.o"), 2) == 2
    assert plan.read_text().count("depth = 2") == 1 and plan.read_text().count("pool = ") == 2
    assert ninja.set_pool(plan, lambda name: False, 2) == 0
    assert plan.read_text() == PLAN


@pytest.mark.slow
def test_the_real_ninja_keeps_to_the_pool(tools: Toolbox, tmp_path: Path) -> None:
    """Eight jobs, of which the heavy ones never run more than two at once."""
    count = tmp_path / "count"
    count.mkdir()
    script = (
        f"touch {count}/$out && ls {count} | wc -l >> {tmp_path}/seen && sleep 0.2 && "
        f"rm {count}/$out && touch $out"
    )
    lines = [f"rule CXX_COMPILER__x\n  command = {script}\n"]
    lines += [f"build h{i}.o: CXX_COMPILER__x\n" for i in range(6)]
    plan = tmp_path / "build.ninja"
    plan.write_text("\n".join(lines))
    assert ninja.set_pool(plan, lambda name: True, 2) == 6
    subprocess.run(
        [str(tools.python.with_name("ninja")), "-C", str(tmp_path), "-j", "8"],
        check=True,
        capture_output=True,
    )
    assert max(map(int, (tmp_path / "seen").read_text().split())) <= 2
    assert len(ninja.read_log(tmp_path)) == 6
    assert all(entry.seconds > 0.1 for entry in ninja.read_log(tmp_path).values())


def test_progress_lines() -> None:
    line = "[7/46 2] Building CXX object a.dir/x.cpp.o"
    assert ninja.parse_status(line) == ninja.Progress(7, 46, 2, "Building CXX object a.dir/x.cpp.o")
    found = ninja.parse_status(line)
    assert found is not None and found.object == "a.dir/x.cpp.o"
    for other in ("[1/2] without our format", "x.cpp:[3/4 2] Building", "", "[a/b c] x"):
        assert ninja.parse_status(other) is None


def test_a_log_that_was_cut_short(tmp_path: Path) -> None:
    (tmp_path / ".ninja_log").write_text(
        "# ninja log v6\n1\t500\t0\ta.o\tabc\n2\t900\t0\tb.o\tabc\n3\t12"
    )
    assert {n: e.seconds for n, e in ninja.read_log(tmp_path).items()} == {
        "a.o": 0.499,
        "b.o": 0.898,
    }
    assert ninja.read_log(tmp_path / "none") == {}

"""A toolkit from the Python index: what is offered, how it is laid out, and that only a whole one gets its name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Doctor

from doctor.compile.toolkit.stub_library import STUBS, functions, make_stubs
from doctor.compile.toolkit.wheel_toolkit import RECEIPT, ToolkitOffer, make, offer
from doctor.errors import DoctorError
from doctor.facts import Facts, Host
from doctor.knowledge.tables import Tables
from doctor.machine.elf import Elf
from doctor.machine.system import System
from doctor.planner.build.draft import draft
from doctor.planner.build.toolchain import Compiler
from doctor.planner.terms.plan import Wishes
from doctor.probe.nvidia.toolkits import probe
from doctor.work.events import Reporter
from torch_source.standins import Shape, make_tree
from torch_source.test_planning import machine

TABLES = Tables()
GCC = Compiler("gcc", "13.3.0", "gcc", "g++")
REQUIREMENTS = ("nvidia-cuda-nvcc==1", "nvidia-cuda-runtime==1", "nvidia-cudnn-cu13==1")

NVCC = """#!/bin/sh
case "$*" in
  --version) echo "Cuda compilation tools, release 13.2, V13.2.86";;
  --list-gpu-arch) printf 'compute_%s\\n' 75 80 90 100 120;;
  *) [ -z "$BROKEN_NVCC" ] || { echo "trial.cu: error: no" >&2; exit 1; }; : > "$4";;
esac
"""
CUDA_H = """#define cuMemAlloc cuMemAlloc_v2
CUresult CUDAAPI cuInit(unsigned int Flags);
CUresult CUDAAPI cuMemAlloc(CUdeviceptr *dptr, size_t bytesize);
"""
WHEELS = {
    "nvidia_cuda_nvcc": {
        "nvidia/cu13/bin/nvcc": NVCC,
        "nvidia/cu13/nvvm/bin/cicc": "",
        "nvidia/cu13/lib/x.a": "",
    },
    "nvidia_cuda_runtime": {
        "nvidia/cu13/include/cuda.h": CUDA_H,
        "nvidia/cu13/include/crt/host_config.h": "",
        "nvidia/cu13/lib/libcudart.so.13": "",
    },
    "nvidia_cudnn_cu13": {"nvidia/cudnn/include/cudnn.h": "", "nvidia/cudnn/lib/libcudnn.so.9": ""},
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which pip and uv know three small packages and no index."""
    folder = tmp_path_factory.mktemp("index")
    for name, members in WHEELS.items():
        with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as wheel:
            for path, text in members.items():
                info = zipfile.ZipInfo(path)
                info.external_attr = 0o100755 << 16
                wheel.writestr(info, text)
            about = f"{name}-1.dist-info"
            wheel.writestr(
                f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n"
            )
            wheel.writestr(
                f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{about}/RECORD", "")
    links = {
        "PIP_FIND_LINKS": str(folder),
        "UV_FIND_LINKS": str(folder),
        "PIP_NO_INDEX": "1",
        "UV_NO_INDEX": "1",
    }
    return {**os.environ, **links}


def offered(base: Path) -> ToolkitOffer:
    row = next(r for r in TABLES.rows("cuda", "wheel") if r["cuda"] == "13.2")
    return ToolkitOffer(
        {**row, "disk_mb": 1}, base / "cuda-toolkits" / "cuda-13.2.2", REQUIREMENTS, GCC
    )


def put_together(base: Path, env: dict[str, str]) -> Path:
    return make(
        offered(base), python=sys.executable, env=env, log=base / "log", reporter=Reporter()
    )


def test_a_release_is_laid_out_as_a_toolkit(index: dict[str, str], tmp_path: Path) -> None:
    home = put_together(tmp_path, index)
    for path in ("bin/nvcc", "nvvm/bin/cicc", "include/crt/host_config.h", "include/cudnn.h", "lib64/libcudart.so",
                 "lib64/libcudnn.so", "lib64/stubs/libcuda.so"):  # fmt: skip
        assert (home / path).is_file(), path
    target = next((home / "targets").iterdir())
    assert (target / "include" / "cuda.h").is_file() and (
        target / "lib" / "libcudart.so.13"
    ).is_file()
    assert not list((home / "lib" / "stubs").glob("*.so.*")), (
        "no loader may take a stub for the driver"
    )
    receipt = json.loads((home / RECEIPT).read_text())
    assert receipt["release"] == "13.2.2" and receipt["packages"]["nvidia-cudnn-cu13"] == "1"
    system = System()
    system.env["CUDA_HOME"] = str(home)
    found = next(t for t in probe(system, None, TABLES).found if t.path == str(home))
    assert found.version == "13.2" and found.headers == ("cudnn.h",)
    assert [p.name for p in home.parent.iterdir()] == [home.name]
    nothing = {"PATH": str(tmp_path)}
    assert put_together(tmp_path, nothing) == home, "what is there is not fetched again"


@pytest.mark.parametrize("trouble", ["no package", "no kernel", "killed"])
def test_only_a_whole_one_gets_its_name(
    index: dict[str, str], tmp_path: Path, trouble: str
) -> None:
    home, env = offered(tmp_path).home, index
    if trouble == "no package":
        env = {**index, "PIP_FIND_LINKS": str(tmp_path), "UV_FIND_LINKS": str(tmp_path)}
        with pytest.raises(DoctorError, match="could not be fetched"):
            put_together(tmp_path, env)
    elif trouble == "no kernel":
        with pytest.raises(DoctorError, match=r"does not compile a kernel: trial\.cu: error: no"):
            put_together(tmp_path, {**index, "BROKEN_NVCC": "1"})
    else:
        half = home.with_name(f".{home.name}.new")
        (half / "home" / "bin").mkdir(parents=True)
    assert not home.exists()
    assert (put_together(tmp_path, index) / RECEIPT).is_file()


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    small = offered(tmp_path)
    large = replace(small, row={**small.row, "disk_mb": 10**12})
    with pytest.raises(DoctorError, match="free space there"):
        make(large, python="/nowhere", env={}, log=tmp_path / "log", reporter=Reporter())


def test_a_stub_has_every_function_and_the_driver_s_name(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or pytest.skip("no gcc")
    (tmp_path / "cuda.h").write_text(CUDA_H)
    assert functions(STUBS[0], CUDA_H) == ["cuInit", "cuMemAlloc", "cuMemAlloc_v2"]
    make_stubs(tmp_path, tmp_path / "stubs", compiler)
    library = tmp_path / "stubs" / "libcuda.so"
    assert Elf(library.read_bytes()).dynamic().soname == "libcuda.so.1"
    assert not (tmp_path / "stubs" / "libnvidia-ml.so").exists(), "nvml.h is not there"
    (tmp_path / "x.c").write_text(
        "int cuMemAlloc_v2(void); int main(void) { return cuMemAlloc_v2(); }\n"
    )
    link = [compiler, "x.c", "-o", "x", f"-L{library.parent}", "-lcuda"]
    subprocess.run(link, cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    ("archs", "torch", "host", "gcc", "release"),
    [
        (("12.0",), "2.15.0", {}, "13.3.0", "13.2.2"),
        (("12.0",), "2.10.0", {}, "13.3.0", "13.0.2"),
        (("10.7",), "2.15.0", {}, "13.3.0", "13.5.0"),
        (("7.5", "9.0+PTX"), "2.15.0", {"arch": "aarch64"}, "13.3.0", "13.2.2"),
        (("12.0",), "2.15.0", {}, "16.1.0", "13.5.0"),
        (("6.1",), "2.15.0", {}, "13.3.0", None),
        (("12.0",), "2.6.0", {}, "13.3.0", None),
        (("12.0",), "2.15.0", {"libc": "musl"}, "13.3.0", None),
        (("12.0",), "2.15.0", {"os": "Darwin"}, "13.3.0", None),
        (("12.0",), "2.15.0", {"arch": "ppc64le"}, "13.3.0", None),
        ((), "2.15.0", {}, "13.3.0", None),
    ],
)  # fmt: skip
def test_what_is_offered(
    archs: tuple[str, ...],
    torch: str,
    host: dict[str, str],
    gcc: str,
    release: str | None,
    tmp_path: Path,
) -> None:
    facts: Facts = machine()
    facts = replace(facts, host=replace(facts.host or Host(), **host))
    chosen = draft(facts, TABLES, Wishes(archs=archs))
    found = offer(facts, TABLES, chosen, torch, tmp_path, [Compiler("gcc", gcc, "gcc", "g++")])
    assert (found.row["release"] if found else None) == release
    if found is not None:
        assert (
            found.requirements[0].endswith(f"=={release}") and found.home.parent.parent == tmp_path
        )


def test_a_driver_that_is_too_old_for_it(tmp_path: Path) -> None:
    facts = machine("12.0")
    assert facts.nvidia is not None
    chosen = draft(facts, TABLES, Wishes())
    for driver, there in (("570.86.10", False), ("580.65.06", True)):
        here = replace(facts, nvidia=replace(facts.nvidia, driver_version=driver))
        found = offer(here, TABLES, chosen, "2.15.0", tmp_path, [GCC])
        assert (found is not None) == there, driver


def test_build_torch_offers_it_and_takes_what_is_there(
    doctor: Doctor, tmp_path: Path, index: dict[str, str]
) -> None:
    """Told with its size; nothing is fetched unasked; the next run finds it, and --cuda-home wins."""
    tree = make_tree(tmp_path / "pytorch", Shape(ops=1, files={"version.txt": "2.15.0\n"}))
    words = ("build-torch", "--source", str(tree), "--arch", "12.0", "--json")
    unasked = doctor(*words)
    assert unasked.status == 1 and "2.2 GB to download" in unasked.err and "--yes" in unasked.err
    agreed = doctor(*words, "--dry-run", "--yes").json
    missing = [f for f in agreed["findings"] if f["code"] == "cuda.toolkit-missing"]
    assert missing[0]["severity"] == "warning" and "CUDA 13.2.2" in missing[0]["remedy"]["text"]
    base = doctor.home / ".cache" / "nanochat"
    assert not (base / "cuda-toolkits").exists()
    home = put_together(base, index)
    ready = doctor(*words, "--dry-run").json
    assert ready["cuda_home"] == str(home) and ready["env"]["USE_CUDNN"] == "1"
    assert "cuda.toolkit-missing" not in {f["code"] for f in ready["findings"]}
    other = tmp_path / "other"
    other.mkdir()
    named = doctor(*words, "--dry-run", "--cuda-home", str(other)).json
    assert "cuda.toolkit-missing" in {f["code"] for f in named["findings"]}

"""What is read from the files of a real torch, against what torch itself and NVIDIA's tools say."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Doctor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KNOWN = {
    # cuobjdump --list-elf of CUDA 12.9 on libtorch_cuda.so
    "2.15.0+cu132": {
        "covered": ["7.5", "8.0", "8.6", "9.0", "10.0", "12.0"],
        "partial": ["8.9", "10.3", "12.1"],
        "counts": {"7.5": 476, "8.0": 476, "8.6": 476, "8.9": 1, "9.0": 476, "9.0a": 4, "10.0": 476,
                   "10.0a": 59, "10.3": 59, "12.0": 476, "12.0a": 1, "12.1a": 1},
    },
}  # fmt: skip
"""Architectures of wheels that were counted once with an independent tool."""

ASK = """
import json, os, torch
import torch.distributed as dist
said = {
    "version": torch.__version__, "cuda": torch.version.cuda, "git": torch.version.git_version,
    "debug": torch.version.debug, "path": os.path.dirname(torch.__file__),
    "abi": torch.compiled_with_cxx11_abi(), "distributed": dist.is_available(),
    "nccl": dist.is_nccl_available(), "gloo": dist.is_gloo_available(),
    "mpi": dist.is_mpi_available(), "loaded": sorted({
        line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}),
}
try:
    store = dist.TCPStore("127.0.0.1", 0, 1, True, use_libuv=True)
    said["libuv"] = store.libuvBackend
except Exception as error:
    said["libuv"] = False
print(json.dumps(said))
"""


@functools.cache
def torch_says(python: str) -> Mapping[str, Any]:
    """What torch says of itself when it is imported."""
    done = subprocess.run([python, "-c", ASK], capture_output=True, text=True, timeout=300, cwd="/")
    assert done.returncode == 0, done.stderr
    said: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.fixture
def torch_facts(doctor: Doctor, torch_python: str) -> Any:
    return doctor("check", "--json", "--python", torch_python).json["facts"]["torch"]


def test_the_same_as_torch_says(torch_facts: Any, torch_python: str) -> None:
    build, said = torch_facts["installed"], torch_says(torch_python)
    assert torch_facts["installed_by"] == "wheel"
    assert "unknown" not in build
    pairs = {"version": "version", "cuda": "cuda", "git_commit": "git", "debug": "debug",
             "path": "path", "cxx11_abi": "abi", "distributed": "distributed", "nccl": "nccl",
             "gloo": "gloo", "mpi": "mpi", "libuv": "libuv"}  # fmt: skip
    assert {ours: build[ours] for ours in pairs} == {o: said[t] for o, t in pairs.items()}
    assert build["local_tag"] == (said["version"].partition("+")[2] or None)
    assert build["built"] is True


def test_every_library_resolves_to_what_was_loaded(torch_facts: Any, torch_python: str) -> None:
    """Torch imported, so nothing is missing; and what it needs was loaded from somewhere."""
    build = torch_facts["installed"]
    assert build["missing_libraries"] == build["foreign_libraries"] == []
    assert build["undefined_symbols"] == []
    loaded = {path.rsplit("/", 1)[-1] for path in torch_says(torch_python)["loaded"]}
    assert set(build["needed_libraries"]) <= loaded


def test_architectures_that_were_counted_before(torch_facts: Any) -> None:
    build = torch_facts["installed"]
    if build["version"] not in KNOWN:
        pytest.skip(f"torch {build['version']} was not counted")
    known: Any = KNOWN[build["version"]]
    assert build["archs_covered"] == known["covered"]
    assert {code["arch"]: code["sass"] for code in build["archs"]} == known["counts"]
    assert build["archs_partial"] == known["partial"]


@pytest.mark.parametrize(
    "library",
    [
        "libtorch_cuda_linalg.so",
        "libtorch_nvshmem.so",
    ],
)
def test_architectures_as_cuobjdump_lists_them(
    torch_facts: Any, torch_python: str, library: str
) -> None:
    torch = Path(torch_facts["installed"]["path"])
    tool = torch.parent / "triton/backends/nvidia/bin/cuobjdump"
    if not os.access(tool, os.X_OK) or not (torch / "lib" / library).exists():
        pytest.skip(f"no cuobjdump or no {library} with this torch")
    command = [str(tool), "--list-elf", "--list-ptx", str(torch / "lib" / library)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        pytest.skip(f"cuobjdump does not run here: {done.stderr.strip()[-200:]}")
    listed: Counter[tuple[str, str]] = Counter()
    for number, suffix, kind in re.findall(r"\.sm_(\d+?)([a-z]?)\.(cubin|ptx)", done.stdout):
        listed[f"{int(number) // 10}.{int(number) % 10}{suffix}", kind] += 1
    counted = Counter(
        {
            (code["arch"], kind): code[field]
            for code in torch_facts["installed"]["sibling_archs"][library]
            for kind, field in (("cubin", "sass"), ("ptx", "ptx"))
            if code[field]
        }
    )
    assert counted == listed


def test_nothing_is_wrong_with_it(doctor: Doctor, torch_python: str) -> None:
    data = doctor("check", "--json", "--python", torch_python).json
    torch_codes = {f["code"] for f in data["findings"] if f["code"].startswith("torch.")}
    assert torch_codes <= {"torch.arch-missing", "torch.cpu-build", "torch.cuda-driver"}


# --- used for real ----------------------------------------------------------------------------


def test_deep(doctor: Doctor, torch_python: str) -> None:
    answer = doctor("check", "--deep", "--json", "--python", torch_python, limit=400)
    deep = answer.json["facts"]["deep"]
    checks = {check["name"]: check for check in deep["checks"]}
    assert "unknown" not in deep
    assert {name: check["detail"] for name, check in checks.items() if check["ok"] is False} == {}
    devices = checks["devices"]["detail"].split(", ")
    assert devices[-1] == "cpu"
    for device in devices:
        for dtype in ("float32", "bfloat16", "float16"):
            assert checks[f"matmul {device} {dtype}"]["ok"] is True
    assert torch_says(torch_python)["version"] in checks["import"]["detail"]
    assert checks["TCPStore with libuv"]["ok"] is True
    assert checks["all-reduce gloo"]["ok"] is True
    assert all(check["seconds"] is not None for check in checks.values())
    assert not [f for f in answer.json["findings"] if f["evidence"][0].startswith("check --deep")]


# --- damaged ----------------------------------------------------------------------------------


def copy_of(torch: Path, python: str, folder: Path, **replaced: bytes) -> str:
    """An environment whose torch is that one by links, but for some files of `lib`."""
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    for entry in torch.parent.iterdir():
        if entry.name not in ("torch", "__pycache__") and entry.suffix != ".pth":
            (site / entry.name).symlink_to(entry)
    for inner in ("", "lib"):
        (site / "torch" / inner).mkdir()
        for entry in (torch / inner).iterdir():
            if entry.name != "lib" or inner:
                (site / "torch" / inner / entry.name).symlink_to(entry)
    for name, data in replaced.items():
        path = site / "torch" / "lib" / f"{name}.so"
        path.unlink()
        path.write_bytes(data)
    return str(folder / "bin" / "python")


@pytest.mark.parametrize("size", [0, 3, 64, 1 << 12, 1 << 20, 1 << 24])
def test_a_library_cut_short(
    doctor: Doctor, torch_facts: Any, torch_python: str, tmp_path: Path, size: int
) -> None:
    torch = Path(torch_facts["installed"]["path"])
    library = torch / "lib" / "libtorch_cuda.so"
    if not library.exists():
        pytest.skip("a torch without CUDA")
    with library.open("rb") as file:
        start = file.read(size)
    python = copy_of(torch, torch_python, tmp_path / "env", libtorch_cuda=start)
    answer = doctor("check", "--json", "--python", python)
    build = answer.json["facts"]["torch"]["installed"]
    assert build["version"] == torch_facts["installed"]["version"]
    assert build["archs"] == build["archs_covered"] == []
    assert "libtorch_cuda.so" in build["unknown"]["archs"]
    assert "libtorch_cuda.so" in build["unknown"]["nccl"]
    assert build["libuv"] == torch_facts["installed"]["libuv"]
    assert not [f for f in answer.json["findings"] if f["code"] == "doctor.rule-failed"]


def test_a_whole_copy_reads_like_the_original(
    doctor: Doctor, torch_facts: Any, torch_python: str, tmp_path: Path
) -> None:
    torch = Path(torch_facts["installed"]["path"])
    python = copy_of(torch, torch_python, tmp_path / "env")
    build = doctor("check", "--json", "--python", python).json["facts"]["torch"]["installed"]
    for name, value in torch_facts["installed"].items():
        if name != "path":
            assert build[name] == value, name

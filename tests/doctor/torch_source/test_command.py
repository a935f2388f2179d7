"""build-torch before anything is built: dry runs, other machines, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Answer, Doctor
from machines import build
from machines.describe import Machine, nvidia

from torch_source.standins import Shape, git, make_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "pytorch", Shape(ops=1))


def dry(doctor: Doctor, *arguments: str) -> Answer:
    return doctor("build-torch", "--dry-run", *arguments)


def unwrapped(text: str) -> str:
    return " ".join(text.split())


def test_a_dry_run_shows_everything_and_changes_nothing(doctor: Doctor, tree: Path) -> None:
    before = sorted(tree.rglob("*"))
    said = dry(doctor, "--source", str(tree), "--no-libuv").out
    for part in ("PyTorch 2.9.0a0 in", "USE_TENSORPIPE=0", "Jobs: ", "Time: ", "Preflight: "):
        assert part in said
    assert sorted(tree.rglob("*")) == before and not (doctor.home / ".cache").exists()


def test_as_json(doctor: Doctor, tree: Path) -> None:
    event = dry(doctor, "--source", str(tree), "--json").json
    assert event["event"] == "plan" and event["torch"] == "2.9.0a0" and event["libuv"] is True
    assert event["env"]["USE_TENSORPIPE"] == "1" and event["jobs"] >= 1
    assert {"code", "severity", "remedy"} <= set(event["findings"][0])


def test_without_a_tree_it_names_what_it_would_clone(doctor: Doctor) -> None:
    said = dry(doctor, "--ref", "v2.8.0").out
    assert (
        f"PyTorch v2.8.0, to be cloned to {doctor.home}/.cache/nanochat/torch-source/v2.8.0" in said
    )


def test_torch_local_path_is_taken_where_it_can_be_built(doctor: Doctor, tree: Path) -> None:
    doctor.env["TORCH_LOCAL_PATH"] = f"{tree}/torch"
    assert f"PyTorch 2.9.0a0 in {tree}" in dry(doctor).out
    (tree / "setup.py").write_text("# nothing\n")
    said = unwrapped(dry(doctor).out)
    assert "to be cloned to" in said and "TORCH_LOCAL_PATH is left alone" in said


def test_what_pytorch_ignores_is_named(doctor: Doctor, tree: Path) -> None:
    doctor.env |= {"CUDA_ARCH_LIST": "12.0", "USE_LIBUV": "1", "USE_TENSORPIPE": "0"}
    said = unwrapped(dry(doctor, "--source", str(tree)).out)
    assert "CUDA_ARCH_LIST=12.0 has no effect" in said and "USE_LIBUV=1 has no effect" in said
    assert "USE_TENSORPIPE=0 of the environment is overridden by 1" in said
    doctor.env |= {"USE_TENSORPIPE": "ON", "USE_MPI": "OFF"}
    assert "overridden" not in dry(doctor, "--source", str(tree)).out, (
        "another spelling of the same"
    )


def test_the_system_s_tensorpipe_brings_no_libuv(doctor: Doctor, tree: Path) -> None:
    """An hour and a half of compiling ended so, on Debian's tree: nothing failed, and libuv was not in it."""
    git(tree, "submodule", "deinit", "--force", "--all")
    findings = dry(doctor, "--source", str(tree), "--json").json["findings"]
    assert [f["severity"] for f in findings if f["code"] == "build.submodules-missing"] == ["error"]
    doctor.env["USE_SYSTEM_LIBS"] = "ON"
    said = unwrapped(dry(doctor, "--source", str(tree), "--libuv").out)
    assert "libuv comes with third_party/tensorpipe, which is empty" in said
    findings = dry(doctor, "--source", str(tree), "--no-libuv", "--json").json["findings"]
    severities = {f["severity"] for f in findings if f["code"] == "build.submodules-missing"}
    assert severities == {"warning"}


def test_too_many_jobs_are_warned_of(doctor: Doctor, tree: Path) -> None:
    said = dry(doctor, "--source", str(tree), "--jobs", "999").out
    assert "MAX_JOBS=999" in said and "--jobs 999" in said


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--arch", "13.9"], 2, "'13.9' is no GPU architecture"),
        (["--arch", "blackwel"], 2, "is no GPU architecture"),
        (["--source", "x", "--ref", "v2.8.0"], 2, "give one of them"),
        (["--jobs", "0"], 2, "0 is not in the range"),
        (["--cuda-home", "/nowhere"], 2, "is no folder"),
        (["--python", "/nowhere"], 2, "there is no such program"),
        (["--source", "/nowhere"], 1, "There is no folder /nowhere"),
        (["--source", "/"], 1, "is no PyTorch source tree"),
        (["--arch", "native"], 1, "none is visible"),
    ],
)
def test_bad_input(doctor: Doctor, arguments: list[str], status: int, said: str) -> None:
    answer = dry(doctor, *arguments)
    assert answer.status == status and said in answer.err, answer.err
    assert "Traceback" not in answer.err and answer.out == ""


def test_a_source_too_old_for_libuv(doctor: Doctor, tree: Path) -> None:
    (tree / "version.txt").write_text("2.0.1\n")
    answer = dry(doctor, "--source", str(tree))
    assert answer.status == 1 and "no libuv backend, which came with 2.1" in answer.err
    assert dry(doctor, "--source", str(tree), "--no-libuv").err == ""


def test_no_nvcc(doctor: Doctor, tree: Path) -> None:
    answer = dry(doctor, "--source", str(tree), "--arch", "12.0")
    assert answer.status == 1 and "cuda.toolkit-missing" in answer.out
    real = doctor("build-torch", "--source", str(tree), "--arch", "12.0")
    assert real.status == 1 and "cuda.toolkit-missing" in real.err and not (tree / "build").exists()
    events = doctor(
        "build-torch", "--source", str(tree), "--arch", "12.0", "--json"
    ).out.splitlines()
    assert json.loads(events[-1])["event"] == "failed"


def test_a_broken_nvcc(doctor: Doctor, tree: Path, tmp_path: Path) -> None:
    home = tmp_path / "cuda"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "nvcc").write_text("#!/bin/sh\nexit 139\n")
    (home / "bin" / "nvcc").chmod(0o755)
    answer = dry(doctor, "--source", str(tree), "--arch", "12.0", "--cuda-home", str(home))
    assert answer.status == 1 and answer.err == ""
    assert f"cuda.toolkit-missing: {home}/bin/nvcc is there and does not work" in unwrapped(
        answer.out
    )


def test_another_machine(doctor: Doctor, tree: Path, tmp_path: Path) -> None:
    root = build(Machine(nvidia=nvidia("RTX 5090"), toolkits=("13.0",)), tmp_path / "root")
    answer = doctor(
        "--root", str(root), "--execute", "build-torch", "--dry-run", "--arch", "sm_120", "--json"
    )
    event = json.loads(answer.out)
    assert event["archs"] == ["12.0"] and event["cuda_home"] == "/usr/local/cuda-13.0"
    refused = doctor("--root", str(root), "--execute", "build-torch", "--arch", "12.0")
    assert refused.status == 2 and "--dry-run" in refused.err

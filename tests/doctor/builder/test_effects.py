"""Whether a step's effect is seen, and its absence told: torch_npu, libraries, shards, the bundle."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from apply_world import NEW, REPO, World, torch_wheel
from elf_files import build_library, needs_gcc
from index_server import make_wheel

from doctor.environment.place import target
from doctor.install import effects
from doctor.install.effects import Effect
from doctor.planner.terms.plan import Launch, Plan, Step, TorchChoice

pytest_plugins = ("apply_fixtures",)


def missing(world: World, plan: Plan, step: str) -> str | None:
    return effects.missing(Effect(plan, Step(step, "…", ()), world.target))


def test_torch_npu_goes_by_its_base_version_and_what_it_imports(uv_world: World) -> None:
    world = uv_world
    world.serve("simple", make_wheel("torch_npu", "2.9.0.post2+abc"), make_wheel("decorator", "5"))
    choice = TorchChoice(
        "2.9.0", None, "torch==2.9.0", "2.9.0.post2", ("torch_npu==2.9.0.post2", "decorator")
    )
    plan = world.plan(torch=choice, route="torch-npu-wheel")
    assert missing(world, plan, "torch-npu") == "no torch_npu is installed"
    world.put("torch_npu")
    assert missing(world, plan, "torch-npu") == "decorator is not installed"
    world.put("decorator")
    assert missing(world, plan, "torch-npu") is None
    other = replace(plan, torch=replace(choice, torch_npu="2.9.0.post3", companions=()))
    assert missing(world, other, "torch-npu") == (
        "torch_npu 2.9.0.post2+abc is installed instead of 2.9.0.post3"
    )


@pytest.mark.parametrize(
    ("version", "cuda", "choice", "problem"),
    [
        ("2.14.0+cu128", "12.8", TorchChoice("2.14.0", "http://h/whl/cu128", "torch==2.14.0"), None),
        ("2.14.0+cpu", None, TorchChoice("2.14.0", "http://h/whl/cu128", "torch==2.14.0"), "CUDA 12.8"),
        ("2.14.0+cu128", "12.8", TorchChoice("2.14.0", "http://h/whl/cpu", "torch==2.14.0"), "instead of CPUs"),
        ("2.14.0+cu126", "12.6", TorchChoice("2.14.0", None, "torch==2.14.0+cu128"), "instead of 2.14.0+cu128"),
        ("2.14", None, TorchChoice("2.14.0", None, "torch==2.14.0"), None),
        ("2.15.0", "13.0", TorchChoice("2.15.0", None, "torch==2.15.0", cuda="13.0"), None),
        ("2.15.0", "12.8", TorchChoice("2.15.0", None, "torch==2.15.0", cuda="13.0"), "CUDA 12.8"),
        ("2.15.0", None, TorchChoice(None, None, "torch"), "no nightly"),
        ("2.16.0.dev20261120+cpu", None, TorchChoice(None, "http://h/cpu", "torch"), None),
    ],
)  # fmt: skip
def test_the_torch_that_is_there_is_the_chosen_one_or_not(
    uv_world: World, version: str, cuda: str | None, choice: TorchChoice, problem: str | None
) -> None:
    world = uv_world
    world.put("torch", index=world.serve("one", torch_wheel(version, cuda=cuda)))
    route = "nightly-wheel" if choice.version is None else "stable-wheel"
    found = missing(world, world.plan(torch=choice, route=route), "torch")
    assert found is None if problem is None else problem in str(found)


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_what_a_build_needs_is_named_by_its_command(uv_world: World, installer: str) -> None:
    world = uv_world
    world.serve("simple", make_wheel("ninja", "1.13"), make_wheel("cmake", "3.25"))
    python = world.target.python
    words = f"{world.uv} pip" if installer == "uv" else f"{python} -m pip"
    command = f"{words} install --python {python} 'cmake>=3.27' ninja"
    question = Effect(world.plan(), Step("build-tools", "…", (command,)), world.target)
    assert effects.missing(question) == "cmake is not installed; ninja is not installed"
    world.put("ninja")
    world.put("cmake")
    assert effects.missing(question) == "cmake 3.25 is installed, and cmake>=3.27 is needed"
    world.put("cmake==4.1", index=world.serve("newer", make_wheel("cmake", "4.1")))
    assert effects.missing(question) is None


def test_a_torch_that_lacks_files_is_not_there(uv_world: World) -> None:
    world = uv_world
    world.put(f"torch=={NEW}", index=f"{world.index.url}/cpu")
    plan = world.torch_plan(NEW, f"{world.index.url}/cpu")
    assert missing(world, plan, "torch") is None
    shutil.rmtree(world.target.site / "torch" / "lib")
    assert missing(world, plan, "torch") == f"torch {NEW} lacks torch/lib/libtorch_cpu.so"


@needs_gcc
def test_a_torch_whose_libraries_are_missing_is_not_there(uv_world: World) -> None:
    world = uv_world
    world.put(f"torch=={NEW}", index=f"{world.index.url}/cpu")
    lib = world.target.site / "torch" / "lib"
    runtime = build_library(world.folder / "libcudart.so.13")
    build_library(lib / "libtorch.so", needs=[runtime])
    plan = world.torch_plan(NEW, f"{world.index.url}/cpu")
    assert missing(world, plan, "torch") == (
        f"torch {NEW} needs libcudart.so.13 for libtorch.so, which is not found"
    )


# --- data, asked of an interpreter that has pyarrow: our own


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, int], str | None]:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    place = target(sys.executable, REPO, tmp_path / "state")

    def missing(step: str, data: str, shards: int) -> str | None:
        launch = Launch.__new__(Launch)  # two of its fields are all that matters here
        vars(launch).update(data=data, shards=shards)
        plan = Plan("keep", "a test", (), None, None, (), launch, (), place.python)
        return effects.missing(Effect(plan, Step(step, "…", ()), place))

    return missing


@pytest.mark.slow
def test_shards_are_looked_at_one_by_one(
    tmp_path: Path, ask: Callable[[str, str, int], str | None]
) -> None:
    shards = pytest.importorskip("nanochat.shards")
    folder = tmp_path / "base_data_climbmix"
    assert "shard_00000.parquet" in str(ask("data", "climbmix", 2))
    for number in (0, 1, 6542):
        shards.write_shard(folder / f"shard_{number:05d}.parquet", ["a text"] * 10)
    assert ask("data", "climbmix", 2) is None
    assert "shard_00002.parquet" in str(ask("data", "climbmix", 3))
    cut = folder / "shard_00001.parquet"
    cut.write_bytes(cut.read_bytes()[:-5])
    assert "shard_00001.parquet is cut" in str(ask("data", "climbmix", 2))
    assert ask("data", "stdlib", 0) == "the corpus stdlib is not made yet"


def test_the_bundle_has_to_be_whole(
    tmp_path: Path, ask: Callable[[str, str, int], str | None]
) -> None:
    bundle = pytest.importorskip("nanochat.bundle")
    folder = tmp_path / "eval_bundle"
    assert "is not there" in str(ask("eval-bundle", "", 0))
    (folder / "eval_data").mkdir(parents=True)
    rows = [
        {"label": name, "icl_task_type": "multiple_choice", "dataset_uri": f"{name}.jsonl", "num_fewshot": [0]}
        for name in bundle.PUBLISHED
    ]  # fmt: skip
    (folder / "core.yaml").write_text(json.dumps({"icl_tasks": rows}))
    names = "".join(f"{name},25\n" for name in bundle.PUBLISHED)
    (folder / "eval_meta_data.csv").write_text(f"Eval Task,Random baseline\n{names}")
    for name in bundle.PUBLISHED:
        (folder / "eval_data" / f"{name}.jsonl").write_text("{}\n")
    assert ask("eval-bundle", "", 0) is None
    (folder / "eval_data" / "boolq.jsonl").unlink()
    assert str(ask("eval-bundle", "", 0)).endswith("lacks boolq")

"""Variables of the environment: those that the build reads count, those of a CI system do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from doctor.compile.source.steering import counted, without_effect
from doctor.knowledge.tables import Tables

TABLES = Tables()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    (folder / "third_party" / "gloo").mkdir(parents=True)
    (folder / "third_party" / "gloo" / "CMakeLists.txt").write_text("option(USE_NEW_THING x)\n")
    (folder / "build").mkdir()
    (folder / "build" / "CMakeLists.txt").write_text("option(USE_OLD_THING x)\n")
    return folder


@pytest.mark.parametrize(
    "name",
    ["BUILD_NUMBER", "BUILD_ID", "BUILD_TAG", "BUILD_BUILDNUMBER", "BUILD_SOURCEVERSION", "BUILD_TOKEN",
     "BUILD_VCS_NUMBER", "BUILD_REPOSITORY_URI", "USE_BAZEL", "BUILD_WORKSPACE", "USE_OLD_THING"],
)  # fmt: skip
def test_a_ci_system_s_variables_change_nothing(tree: Path, name: str) -> None:
    """They differ from run to run, and would keep every wheel out of reach."""
    env = {name: "4711"}
    assert counted(env, tree, TABLES) == {} and without_effect(env, tree, TABLES) == [name]


@pytest.mark.parametrize(
    "name",
    ["TORCH_HOME", "TORCH_LOGS", "NCCL_DEBUG", "NCCL_SOCKET_IFNAME", "PYTORCH_CUDA_ALLOC_CONF", "MAX_JOBS",
     "TORCH_LOCAL_PATH", "PYTORCH_BUILD_NUMBER", "CMAKE_CXX_COMPILER_LAUNCHER", "USE_CCACHE", "PATH"],
)  # fmt: skip
def test_what_is_read_when_programs_run_does_not_count_and_stays(tree: Path, name: str) -> None:
    env = {name: "x"}
    assert counted(env, tree, TABLES) == {} and without_effect(env, tree, TABLES) == []


@pytest.mark.parametrize(
    "name",
    ["CXXFLAGS", "NVCC_APPEND_FLAGS", "USE_MKLDNN", "USE_SYSTEM_LIBS", "BLAS", "DEBUG", "CMAKE_CXX_FLAGS",
     "CMAKE_BUILD_TYPE", "BUILD_SHARED_LIBS", "NCCL_ROOT", "CUDNN_LIBRARY", "_GLIBCXX_USE_CXX11_ABI",
     "USE_NEW_THING"],
)  # fmt: skip
def test_what_the_build_reads_counts(tree: Path, name: str) -> None:
    assert counted({name: "0", "BUILD_NUMBER": "1"}, tree, TABLES) == {name: "0"}

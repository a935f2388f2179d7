"""The recipe against PyTorch's own files: names and defaults of options are read from a real tree.

The tree is Debian's source package of PyTorch 2.6.0 (submodules left out), fetched once with apt, or
the folder that NANOCHAT_TEST_PYTORCH_SOURCE names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from conftest import REPO

from doctor.compile.ninja.weights import Weights
from doctor.compile.source.read_tree import read_tree
from doctor.knowledge.tables import Tables

TABLES = Tables()
VARIABLE = "NANOCHAT_TEST_PYTORCH_SOURCE"
SHELF = REPO / ".venv-cuda" / "share" / "pytorch"

OPTION = re.compile(
    r"^\s*(?:cmake_dependent_)?option\(\s*(\w+)\s+\"[^\"]*\"\s*(ON|OFF)?",
    re.MULTILINE | re.IGNORECASE,
)


def options(cmake: str) -> dict[str, str]:
    """Options that a CMakeLists.txt declares, with their defaults; OFF where it states none."""
    return {m[1]: (m[2] or "OFF").upper() for m in OPTION.finditer(cmake)}


@pytest.fixture(scope="module")
def real() -> Path:
    """A real tree, or a skip."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    found = sorted(SHELF.glob("pytorch-*/version.txt"))
    return found[0].parent if found else _fetch()


def _archive() -> str:
    """The Debian archive that this machine's apt is set to, or a skip."""
    told = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line for line in told.stdout.split() if line.rstrip("/").endswith("/debian")]
    if not found:
        pytest.skip("no real PyTorch source: apt here is not set to an archive of Debian")
    return found[0]


def _fetch() -> Path:
    if shutil.which("apt-get") is None:
        pytest.skip(f"no real PyTorch source: no apt, and {VARIABLE} is not set")
    SHELF.mkdir(parents=True, exist_ok=True)
    lists = SHELF / "apt"
    (lists / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (lists / "sources.list").write_text(f"deb-src {_archive()} trixie main\n")
    apt = ["apt-get", "-o", f"Dir::State::lists={lists}/lists", "-o",
           f"Dir::Etc::sourcelist={lists}/sources.list", "-o", "Dir::Etc::sourceparts=/-",
           "-o", f"Dir::Cache={lists}"]  # fmt: skip
    for command in (["update"], ["source", "--download-only", "pytorch"]):
        done = subprocess.run(
            [*apt, *command], cwd=SHELF, capture_output=True, text=True, timeout=300, check=False
        )
        if done.returncode:
            pytest.skip(f"no real PyTorch source: {done.stderr.strip()[-300:]}")
    with tarfile.open(next(SHELF.glob("pytorch_*.orig.tar.xz"))) as archive:
        archive.extractall(SHELF)
    return next(SHELF.glob("pytorch-*/version.txt")).parent


def test_options_are_read() -> None:
    text = (
        'option(USE_CUDA "Use CUDA" ON)\noption(\n  BUILD_X\n  "Long text" OFF)\n'
        'cmake_dependent_option(USE_NCCL "Use NCCL" ON\n  "USE_CUDA;UNIX" OFF)\n# option(NO "x" ON)\n'
    )
    assert options(text) == {"USE_CUDA": "ON", "BUILD_X": "OFF", "USE_NCCL": "ON"}


@pytest.mark.network
@pytest.mark.slow
def test_names_and_defaults(real: Path) -> None:
    """Every option of the recipe is one of PyTorch's, with the default that the row states."""
    there = options((real / "CMakeLists.txt").read_text())
    rows = [row for row in TABLES.rows("recipes", "setting") if "option" in row]
    assert rows
    assert {r["option"]: r["default"] for r in rows} == {
        r["option"]: there.get(r["option"]) for r in rows
    }


@pytest.mark.network
@pytest.mark.slow
def test_libuv_comes_with_tensorpipe_alone(real: Path) -> None:
    """TORCH_USE_LIBUV is set inside `if(USE_DISTRIBUTED AND USE_TENSORPIPE)`, whatever USE_LIBUV says."""
    text = (real / "cmake" / "Dependencies.cmake").read_text()
    block = text[text.index("if(USE_DISTRIBUTED AND USE_TENSORPIPE)") :]
    assert "TORCH_USE_LIBUV" in block[: block.index("add_subdirectory")]
    assert text.count("TORCH_USE_LIBUV") == 1 and "USE_LIBUV)" not in text.replace(
        "TORCH_USE_LIBUV", ""
    )


@pytest.mark.network
@pytest.mark.slow
def test_what_is_ignored_is_read_nowhere(real: Path) -> None:
    """The variables of [[ignored]] are no option, and setup.py does not hand them on."""
    cmake = (real / "CMakeLists.txt").read_text()
    handed = (real / "tools" / "setup_helpers" / "cmake.py").read_text()
    for row in TABLES.rows("recipes", "ignored"):
        assert row["name"] not in options(cmake) and f'"{row["name"]}"' not in handed, row["name"]


@pytest.mark.network
@pytest.mark.slow
def test_the_tree_is_understood(real: Path) -> None:
    tree = read_tree(real, TABLES)
    assert tree.version.startswith("2.6.0") and tree.driver["name"] == "setup.py"
    assert tree.cmake == "3.18" and tree.gcc == "9.3" and tree.python == "3.9"
    assert {"third_party/tensorpipe", "third_party/gloo"} <= set(tree.missing)
    assert "numpy" in tree.requires


@pytest.mark.network
@pytest.mark.slow
def test_heavy_objects_are_named_as_in_the_tree(real: Path, tmp_path: Path) -> None:
    weights = Weights(TABLES.rows("recipes", "weight"), tmp_path / "w")
    kernels = [
        p.name + ".o"
        for p in real.glob("aten/src/ATen/native/transformers/cuda/flash_attn/kernels/*.cu")
    ]
    assert kernels and all(weights.is_heavy(name, 3.45) for name in kernels)
    others = [p.name + ".o" for p in real.glob("aten/src/ATen/native/cuda/*.cu")]
    assert sum(weights.is_heavy(name, 3.45) for name in others) < len(others) / 5

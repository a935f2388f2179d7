"""A small tree that stands in for PyTorch's: git with a submodule, and what it is compiled with."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import REPO

from doctor.compile.toolkit.wheel_toolkit import arrange

TEMPLATE = Path(__file__).parent / "standin"
PEP517 = Path(__file__).parent / "standin_pep517"
"""What differs in a tree that has scikit-build-core in place of a setup.py, as PyTorch's from 2.15 on."""

TOOLS_FOLDER = REPO / ".venv-cuda"
TOOLS_VARIABLE = "NANOCHAT_TEST_CUDA_PYTHON"
"""An interpreter whose environment has nvcc and the rest, in place of one that tests make."""

CUDA = "13.5.37"
CUDA_PACKAGES = [
    f"nvidia-{name}=={CUDA}" for name in ("cuda-nvcc", "cuda-crt", "cuda-runtime", "nvvm")
]
BUILD_PACKAGES = ["cmake", "ninja", "pip", "scikit-build-core>=1.0", "setuptools", "wheel"]
STAMP = "\n".join(["laid out as a toolkit", *CUDA_PACKAGES, *BUILD_PACKAGES])

ORIGIN = "tensorpipe-origin"
"""Beside a tree: what its submodule was cloned from."""

GIT = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "protocol.file.allow",
    "GIT_CONFIG_VALUE_0": "always",
}


@dataclass(frozen=True)
class Toolbox:
    """What a build needs: an interpreter with CMake and ninja, a CUDA toolkit, libuv."""

    python: Path
    cuda_home: Path
    libuv: Path | None


def toolbox() -> Toolbox:
    """Find it, or make it once from the Python index; without either the test is skipped aloud."""
    given = os.environ.get(TOOLS_VARIABLE)
    folder = Path(given).parent.parent if given else TOOLS_FOLDER
    if not given and not _complete(folder):
        _make(folder)
    homes = [folder / "cuda", *folder.glob("lib/python3.*/site-packages/nvidia/cu13")]
    home = next((home for home in homes if (home / "bin" / "nvcc").exists()), None)
    if home is None:
        pytest.skip(f"no nvcc in {folder}")
    sources = sorted((folder / "share").glob("uvloop-*/vendor/libuv"))
    libuv = _libuv(sources[0], folder) if sources else None
    return Toolbox(folder / "bin" / "python", home, libuv)


LIBUV = """add_library(uv_a STATIC IMPORTED GLOBAL)
set_target_properties(uv_a PROPERTIES IMPORTED_LOCATION ${CMAKE_CURRENT_LIST_DIR}/libuv.a
  INTERFACE_INCLUDE_DIRECTORIES ${CMAKE_CURRENT_LIST_DIR}/include INTERFACE_LINK_LIBRARIES "pthread;dl;rt")
"""


def _libuv(source: Path, folder: Path) -> Path:
    """What a tree takes in place of libuv's source: compiled once, not with every tree."""
    place = folder / "share" / "libuv"
    if place.exists():
        return place
    fresh = Path(tempfile.mkdtemp(dir=place.parent))
    env = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    options = ("BUILD_TESTING=OFF", "LIBUV_BUILD_SHARED=OFF", "CMAKE_POSITION_INDEPENDENT_CODE=ON")
    words = ["cmake", "-GNinja", *(f"-D{option}" for option in options), "-S", str(source)]
    for command in (
        [*words, "-B", str(fresh / "build")],
        ["ninja", "-C", str(fresh / "build"), "uv_a"],
    ):
        subprocess.run(command, env=env, capture_output=True, check=True)
    shutil.copytree(source / "include", fresh / "made" / "include")
    shutil.copy(fresh / "build" / "libuv.a", fresh / "made")
    (fresh / "made" / "CMakeLists.txt").write_text(LIBUV)
    with contextlib.suppress(OSError):  # somebody beside us was as quick
        (fresh / "made").rename(place)
    shutil.rmtree(fresh)
    return place


def _complete(folder: Path) -> bool:
    """Whether an earlier run made it, with the packages that are wanted now."""
    stamp = folder / "complete"
    return stamp.exists() and stamp.read_text() == STAMP


def _make(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip"]
    share = folder / "share"
    share.mkdir(exist_ok=True)
    for command in (
        [*pip, "install", "--quiet", *BUILD_PACKAGES],
        [*pip, "install", "--quiet", "--target", str(share / "site"), *CUDA_PACKAGES],
        # its source archive is the one that brings libuv's source with it
        [*pip, "download", "--quiet", "--no-deps", "--no-binary=:all:", "--no-build-isolation",
         "--dest", str(share), "uvloop"],
    ):  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        if done.returncode:
            shutil.rmtree(folder)
            pytest.skip(f"no compiler for CUDA, and none to be had: {done.stderr.strip()[-300:]}")
    arrange(share / "site", folder / "cuda", CUDA)
    for archive in share.glob("uvloop-*.tar.gz"):
        with tarfile.open(archive) as file:
            file.extractall(share, **({"filter": "data"} if sys.version_info >= (3, 12) else {}))
    (folder / "complete").write_text(STAMP)


def git(folder: Path, *arguments: str) -> str:
    """Run git as nobody in particular."""
    env = {**os.environ, **GIT}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class Shape:
    """What a stand-in tree is made of.

    Attributes:
        ops: number of small C++ files.
        files: path -> text, over the template's.
        pep517: built by scikit-build-core; there is no setup.py.
    """

    ops: int = 4
    libuv: Path | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    submodule: bool = True
    pep517: bool = False


def op(number: int) -> str:
    """One small C++ file."""
    return f"int torch_op_{number}(int n) {{ return n + {number}; }}\n"


@functools.cache
def _shelf() -> Path:
    """Where trees of this run are kept, to be copied: git takes longer to make one."""
    shelf = Path(tempfile.mkdtemp(prefix="nanochat-standins-"))
    atexit.register(shutil.rmtree, shelf, ignore_errors=True)
    return shelf


def make_tree(folder: Path, shape: Shape) -> Path:
    """A committed stand-in tree with its submodule checked out, whose origin is `tensorpipe-origin` beside it."""
    key = hashlib.sha256(repr((shape, sorted(shape.files.items()))).encode()).hexdigest()[:16]
    kept = _shelf() / key / "pytorch"
    if not kept.exists():
        _make_tree(kept, shape)
    shutil.copytree(kept, folder, symlinks=True)
    shutil.copytree(kept.parent / ORIGIN, folder.parent / ORIGIN, dirs_exist_ok=True)
    return folder


def _make_tree(folder: Path, shape: Shape) -> None:
    origin = folder.parent / ORIGIN
    shutil.copytree(TEMPLATE / "tensorpipe", origin)
    if shape.libuv:
        shutil.copytree(shape.libuv, origin / "third_party" / "libuv")
    commit_all(origin)
    shutil.copytree(TEMPLATE, folder, ignore=shutil.ignore_patterns("tensorpipe", "gitignore"))
    shutil.copy(TEMPLATE / "gitignore", folder / ".gitignore")
    (folder / "torch" / "csrc" / "ops").mkdir()
    for number in range(shape.ops):
        (folder / "torch" / "csrc" / "ops" / f"op_{number}.cpp").write_text(op(number))
    if shape.pep517:
        (folder / "setup.py").unlink()
        shutil.copytree(PEP517, folder, dirs_exist_ok=True)
        cmake = folder / "CMakeLists.txt"
        named = cmake.read_text().replace("project(Torch", "project(${SKBUILD_PROJECT_NAME}")
        cmake.write_text(named)
    for path, text in shape.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "submodule", "--quiet", "add", f"../{ORIGIN}", "third_party/tensorpipe")
    commit_all(folder)
    if not shape.submodule:
        git(folder, "submodule", "--quiet", "deinit", "--force", "--all")


def commit_all(folder: Path) -> None:
    """Commit what lies there, into a new repository where there is none."""
    if not (folder / ".git").exists():
        git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all", "--force", ".")
    git(folder, "commit", "--quiet", "-m", "x")

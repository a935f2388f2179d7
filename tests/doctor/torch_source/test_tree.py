"""What is read from a source tree; trees that are cut short, changed, or something else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from doctor.compile.source.read_tree import missing_submodules, read_tree
from doctor.compile.source.tree_state import remember_files, state_hash
from doctor.errors import DoctorError
from doctor.knowledge.tables import Tables
from torch_source.standins import TEMPLATE, Shape, git, make_tree

TABLES = Tables()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_tree(tmp_path / "pytorch", Shape(ops=1))


def archive(folder: Path) -> Path:
    """The same without git and without submodules, as a distribution packs it."""
    shutil.copytree(TEMPLATE, folder, ignore=shutil.ignore_patterns("tensorpipe"))
    return folder


def test_a_whole_tree(tree: Path) -> None:
    found = read_tree(tree, TABLES)
    assert found.version == "2.9.0a0" and found.driver["name"] == "setup.py"
    assert found.commit == git(tree, "rev-parse", "HEAD").strip()
    assert found.changed == () and found.missing == () and found.old_projects == ()
    assert found.cmake == "3.18" and found.gcc == "9.3"
    assert found.requires == ("setuptools", "wheel", "cmake", "ninja")


def test_what_was_changed_counts(tree: Path) -> None:
    clean = state_hash(read_tree(tree, TABLES))
    assert state_hash(read_tree(tree, TABLES)) == clean
    (tree / "new.cpp").write_text("int x;\n")
    untracked = state_hash(read_tree(tree, TABLES))
    (tree / "new.cpp").unlink()
    assert untracked != clean and state_hash(read_tree(tree, TABLES)) == clean
    file = tree / "third_party" / "tensorpipe" / "CMakeLists.txt"
    file.write_text(file.read_text() + "# changed\n")
    found = read_tree(tree, TABLES)
    assert state_hash(found) != clean and found.changed == ("third_party/tensorpipe",)


def test_what_a_build_writes_does_not_count(tree: Path, tmp_path: Path) -> None:
    for place in (tree, archive(tmp_path / "archive")):
        before = state_hash(read_tree(place, TABLES))
        for name in ("build/x.o", "torch/lib/libc10.so", "torch/version.py", "dist/torch.whl"):
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text("made")
        assert state_hash(read_tree(place, TABLES)) == before, place


def test_what_a_build_generates_among_the_source_does_not_count(tmp_path: Path) -> None:
    """PyTorch's writes 50 files below torch/csrc; without git only a list of before tells them apart."""
    place = archive(tmp_path / "archive")
    tree = read_tree(place, TABLES)
    before = state_hash(tree)
    tree.build.mkdir()
    remember_files(tree)
    (place / "torch" / "csrc" / "generated").mkdir()
    (place / "torch" / "csrc" / "generated" / "Functions.cpp").write_text("int x;\n")
    assert state_hash(read_tree(place, TABLES)) == before
    (place / "torch" / "csrc" / "Module.cpp").write_text("int y;\n")
    assert state_hash(read_tree(place, TABLES)) != before


def test_submodules_that_are_not_there(tree: Path, tmp_path: Path) -> None:
    git(tree, "submodule", "deinit", "--force", "--all")
    found = read_tree(tree, TABLES)
    assert found.missing == ("third_party/tensorpipe",) and found.changed == ()
    packed = read_tree(archive(tmp_path / "archive"), TABLES)
    assert packed.commit is None and packed.missing == ()
    (tmp_path / "archive" / "cmake" / "Dependencies.cmake").write_text(
        "add_subdirectory(${PROJECT_SOURCE_DIR}/third_party/tensorpipe)\n"
        "  add_subdirectory(${CMAKE_CURRENT_LIST_DIR}/../third_party/gloo)\n"
        "# add_subdirectory(${X}/third_party/old)\n"
    )
    assert list(missing_submodules(tmp_path / "archive")) == [
        "third_party/tensorpipe",
        "third_party/gloo",
    ]


def test_an_archive_inside_another_repository_has_no_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert read_tree(archive(tmp_path / "pytorch"), TABLES).commit is None


def fail(folder: Path, command: str) -> dict[str, str]:
    """An environment whose git fails at one command, as with a broken index or on a dead disk."""
    folder.mkdir()
    real = shutil.which("git")
    lines = f'case " $* " in *" {command} "*) echo "fatal: no" >&2; exit 128;; esac'
    (folder / "git").write_text(f'#!/bin/sh\n{lines}\nexec {real} "$@"\n')
    (folder / "git").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize("command", ["rev-parse", "status", "diff", "ls-files"])
def test_a_git_that_fails_is_no_clean_tree(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Else the wheel of the unchanged source would be handed out for a changed one."""
    (tree / "setup.py").write_text((tree / "setup.py").read_text() + "# changed\n")
    monkeypatch.setenv("PATH", fail(tmp_path / "bin", command)["PATH"])
    with pytest.raises(
        DoctorError, match=f"git {command} failed in .* state of the source is unknown"
    ):
        state_hash(read_tree(tree, TABLES))


def test_no_git_for_a_git_tree(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DoctorError, match=r"cannot be started .* install git"):
        read_tree(tree, TABLES)
    assert read_tree(archive(tmp_path / "archive"), TABLES).commit is None


def test_a_broken_index_is_no_clean_tree(tree: Path) -> None:
    (tree / ".git" / "index").write_bytes(b"no index")
    with pytest.raises(DoctorError, match="state of the source is unknown; mend the tree"):
        read_tree(tree, TABLES)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a tree away")
def test_a_tree_of_someone_else(tree: Path) -> None:
    os.chown(tree / ".git", 12345, 12345)
    os.chown(tree, 12345, 12345)
    with pytest.raises(DoctorError, match=r"dubious ownership.*safe\.directory"):
        read_tree(tree, TABLES)


def test_git_s_own_variables_and_the_user_s_settings_hide_nothing(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_tree(tmp_path / "other", Shape(ops=2))
    clean = state_hash(read_tree(tree, TABLES))
    git(tree, "config", "status.showUntrackedFiles", "no")
    git(tree, "config", "diff.external", "true")
    (tree / "new.cpp").write_text("int x;\n")
    (tree / "setup.py").write_text((tree / "setup.py").read_text() + "# changed\n")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    found = read_tree(tree, TABLES)
    assert set(found.changed) == {"new.cpp", "setup.py"}
    changed = state_hash(found)
    (tree / "setup.py").write_text((tree / "setup.py").read_text() + "# again\n")
    assert len({clean, changed, state_hash(read_tree(tree, TABLES))}) == 3


def test_old_projects_below_third_party(tree: Path) -> None:
    project = tree / "third_party" / "protobuf" / "cmake"
    project.mkdir(parents=True)
    (project / "CMakeLists.txt").write_text("cmake_minimum_required(VERSION 3.1.3)\n")
    assert read_tree(tree, TABLES).old_projects == ("third_party/protobuf/cmake",)


@pytest.mark.parametrize(
    ("take_away", "said"),
    [
        ("version.txt", "is no PyTorch source tree"),
        ("CMakeLists.txt", "was cut short"),
        ("setup.py", "is built in a way that is not known"),
    ],
)
def test_what_is_no_pytorch(tree: Path, take_away: str, said: str) -> None:
    os.unlink(tree / take_away)
    with pytest.raises(DoctorError, match=said):
        read_tree(tree, TABLES)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DoctorError, match="There is no folder"):
        read_tree(tmp_path / "x", TABLES)


def test_a_tree_without_setup_py(tmp_path: Path) -> None:
    """PyTorch from 2.15 on: pyproject.toml tells name, builder and needs, in a list with comments."""
    tree = make_tree(tmp_path / "pytorch", Shape(ops=1, pep517=True))
    found = read_tree(tree, TABLES)
    assert found.driver["name"] == "scikit-build-core" and found.python == "3.10"
    assert found.requires == ("scikit-build-core>=1.0", "cmake", "ninja", "pip")
    (tree / "setup.py").write_text("raise SystemExit('use pip')\n")
    assert read_tree(tree, TABLES).driver["name"] == "scikit-build-core"


def test_another_project_of_the_same_builder_is_no_pytorch(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "other", Shape(ops=1, pep517=True))
    file = tree / "pyproject.toml"
    file.write_text(file.read_text().replace('name = "torch"', 'name = "other"'))
    with pytest.raises(DoctorError, match="is no PyTorch source tree"):
        read_tree(tree, TABLES)


def test_a_damaged_pyproject_tells_nothing(tree: Path) -> None:
    for text in (
        "[build-system\n",
        'build-system = 1\nproject = "x"\n',
        "[build-system]\nrequires = 1\n",
    ):
        (tree / "pyproject.toml").write_text(text)
        assert read_tree(tree, TABLES).requires == ()

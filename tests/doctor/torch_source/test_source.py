"""Clones: from the first address that has the tag, finished after any stop, never over something else."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from doctor.compile.source.clone import Origin, clone, mirrored, origins
from doctor.compile.source.read_tree import read_tree
from doctor.errors import DoctorError
from doctor.knowledge.tables import Tables
from doctor.planner.build.release import newest_release
from doctor.work.events import Reporter
from torch_source.standins import GIT, Shape, git, make_tree

TABLES = Tables()


@pytest.fixture
def origin(tmp_path: Path) -> str:
    tree = make_tree(tmp_path / "origin", Shape(ops=1))
    git(tree, "tag", "v2.9.0")
    return str(tree)


def get(folder: Path, *urls: str, ref: str = "v2.9.0") -> str:
    """Clone; what was said."""
    said = io.StringIO()
    env = {**os.environ, **GIT}
    clone(
        folder,
        ref,
        [Origin(url) for url in urls],
        env=env,
        log=folder.parent / "log",
        reporter=Reporter(err=said),
    )
    return said.getvalue()


def test_with_all_submodules_and_no_history(origin: str, tmp_path: Path) -> None:
    said = get(tmp_path / "clone", f"file://{tmp_path}/nowhere", f"file://{origin}")
    assert f"from file://{origin}" in said
    tree = read_tree(tmp_path / "clone", TABLES)
    assert tree.missing == () and tree.changed == ()
    assert git(tree.path, "rev-list", "--count", "HEAD").strip() == "1"
    assert get(tmp_path / "clone", "file:///gone") == "", "what is there is not fetched again"


@pytest.mark.parametrize(
    "stage", ["begun", "fetched", "half checked out", "no submodules", "locked"]
)
def test_a_clone_that_was_stopped_is_finished(origin: str, tmp_path: Path, stage: str) -> None:
    folder = tmp_path / "clone"
    get(folder, f"file://{origin}")
    if stage == "begun":
        shutil.rmtree(folder / ".git" / "refs")
        shutil.rmtree(folder / ".git" / "objects")
        (folder / "CMakeLists.txt").unlink()
    elif stage == "fetched":
        for path in folder.glob("[!.]*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif stage == "half checked out":
        (folder / "CMakeLists.txt").unlink()
        (folder / ".git" / "index").unlink()
    else:
        git(folder, "submodule", "deinit", "--force", "--all")
    if stage == "locked":
        (folder / ".git" / "index.lock").touch()
    get(folder, f"file://{origin}")
    tree = read_tree(folder, TABLES)
    assert tree.missing == () and tree.changed == () and tree.commit


KILL = """#!/bin/sh
case " $* " in
  *" ls-remote "*) exec {real} "$@";;
  *" init "*) {before}kill -9 $PPID; sleep 5;;
esac
exec {real} "$@"
"""


@pytest.mark.parametrize("before", ["", '{real} "$@"; ', "mkdir .git 2>/dev/null; "])
def test_killed_at_git_init_the_next_run_goes_on(origin: str, tmp_path: Path, before: str) -> None:
    """Whether git had made its folder or not."""
    real = shutil.which("git")
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "git"
    fake.write_text(KILL.format(real=real, before=before.format(real=real)))
    fake.chmod(0o755)
    folder = tmp_path / "clone"
    code = (
        "import sys, pathlib; from torch_source.test_source import get; "
        f"get(pathlib.Path({str(folder)!r}), 'file://{origin}')"
    )
    path = f"{fake.parent}:{os.environ['PATH']}"
    killed = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr
    get(folder, f"file://{origin}")
    assert read_tree(folder, TABLES).missing == ()


def test_a_repository_that_was_only_begun_is_adopted_and_one_with_anything_in_it_is_not(
    origin: str, tmp_path: Path
) -> None:
    """Earlier versions left such a folder behind when they were killed after `git init`."""
    for name in ("begun", "staged"):
        (tmp_path / name).mkdir()
        git(tmp_path / name, "init", "--quiet")
    (tmp_path / "staged" / "thesis.txt").write_text("precious")
    git(tmp_path / "staged", "add", "thesis.txt")
    (tmp_path / "staged" / "thesis.txt").unlink()
    get(tmp_path / "begun", f"file://{origin}")
    with pytest.raises(DoctorError, match="no clone of nanochat-doctor"):
        get(tmp_path / "staged", f"file://{origin}")
    assert git(tmp_path / "staged", "show", ":thesis.txt") == "precious"


def test_what_is_no_clone_of_ours_is_left_alone(origin: str, tmp_path: Path) -> None:
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(DoctorError, match="no clone of nanochat-doctor"):
        get(folder, f"file://{origin}")
    assert (folder / "thesis.txt").read_text() == "precious"


def test_no_address_has_the_tag(origin: str, tmp_path: Path) -> None:
    with pytest.raises(
        DoctorError, match=r"v9\.9\.9 can be cloned from nowhere .*has no tag v9\.9\.9"
    ):
        get(tmp_path / "clone", f"file://{origin}", ref="v9.9.9")


def test_the_newest_release_for_a_python() -> None:
    newest = max(
        TABLES.rows("torch", "release"), key=lambda r: tuple(map(int, r["torch"].split(".")))
    )
    assert newest_release(TABLES, None).startswith(f"v{newest['torch']}.")
    assert newest_release(TABLES, "3.8") == "v2.4.1"
    with pytest.raises(DoctorError, match=r"knows Python 2\.7"):
        newest_release(TABLES, "2.7")


def test_a_mirror_of_the_host_serves_submodules_too(origin: str, tmp_path: Path) -> None:
    """The submodule's own address leads nowhere from here; the mirror's does."""
    git(Path(origin), "config", "-f", ".gitmodules", "submodule.third_party/tensorpipe.url",
        "https://far.invalid/tensorpipe-origin")  # fmt: skip
    git(Path(origin), "commit", "--quiet", "--all", "-m", "far")
    git(Path(origin), "tag", "--force", "v2.9.0")
    place = Origin("https://far.invalid/origin", (f"file://{tmp_path}/", "https://far.invalid/"))
    folder = tmp_path / "clone"
    said = io.StringIO()
    clone(folder, "v2.9.0", [Origin("https://far.invalid/origin"), place], env={**os.environ, **GIT},
          log=tmp_path / "log", reporter=Reporter(err=said))  # fmt: skip
    assert read_tree(folder, TABLES).missing == ()
    env = {**os.environ, **GIT, **mirrored(folder, GIT)}
    asked = ["git", "ls-remote", "--exit-code", "https://far.invalid/origin", "refs/tags/v2.9.0"]
    assert subprocess.run(asked, env=env, capture_output=True, check=False).returncode == 0
    assert mirrored(Path(origin), GIT) == {}, "a tree of the user's own"


def test_origins_are_data() -> None:
    first, *others = origins(TABLES)
    assert first.url.startswith("https://") and first.rewrite is None
    assert any(place.rewrite for place in others) and any(not place.rewrite for place in others)

"""The build folder of a tree: who may use it, what lies in it, and whether a build may go on there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from doctor.compile.source.fingerprint import Fingerprint, State, read_state
from doctor.compile.source.tree_state import git, remember_files
from doctor.errors import DoctorError
from doctor.planner.build.tree import Tree
from doctor.work import processes

ASIDE = "build.aside"
"""Beside the build folder: other builds, by their keys."""


@contextlib.contextmanager
def locked(tree: Path) -> Iterator[str]:
    """Be the only build in a tree; gives the mark of its processes.

    The lock is on the folder itself and ends with this process, however that ends. Programs that
    a killed build has left behind are ended first, and this one's own when it is done.

    Raises:
        DoctorError: another build is at work there.
    """
    mark = str(tree.resolve())
    descriptor = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pids = processes.marked(mark)
            who = f" (its processes: {', '.join(map(str, pids[:4]))})" if pids else ""
            raise DoctorError(
                f"Another build is at work in {tree}{who}; wait for its end, or build in another tree."
            ) from error
        processes.end(mark)
        try:
            yield mark
        finally:
            processes.end(mark)
    finally:
        os.close(descriptor)


def prepare(tree: Tree, wanted: Fingerprint, resume: bool) -> bool:
    """Make the build folder fit for a build; whether it goes on where an earlier one stopped.

    What lies there of another build is put aside, never deleted, and comes back when that build is
    wished for again.

    Raises:
        DoctorError: `resume`, and there is nothing to go on with, or source, settings or programs changed.
    """
    build = tree.build
    state = read_state(build)
    if state is not None and state.fingerprint.key == wanted.key:
        _undo_half_configured(build, state)
        return state.stage != "done"
    if resume:
        raise DoctorError(_why_not(tree, wanted, state))
    if build.exists():
        aside = _aside(tree, state)
        os.rename(build, aside)
        _put_products_aside(tree, aside / "installed")
    parked = tree.path / ASIDE / wanted.key
    if read_state(parked) is not None:
        os.rename(parked, build)
        return True
    build.mkdir()
    remember_files(tree)
    return False


def _why_not(tree: Tree, wanted: Fingerprint, state: State | None) -> str:
    if state is None:
        return (
            f"There is no unfinished build of nanochat-doctor in {tree.build}; leave --resume out "
            "to begin one."
        )
    changed = wanted.changed(state.fingerprint)
    more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    return (
        f"The build in {tree.build} cannot go on, because this changed: {'; '.join(changed[:4])}{more}. "
        "Set it back, or leave --resume out to begin anew (the old objects are put aside)."
    )


def _undo_half_configured(build: Path, state: State) -> None:
    """A killed CMake leaves a cache that lies; what was compiled does not depend on it."""
    if state.stage == "configuring":
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        (build / "build.ninja").unlink(missing_ok=True)
        shutil.rmtree(build / "CMakeFiles", ignore_errors=True)


def _aside(tree: Tree, state: State | None) -> Path:
    """A free name for a build folder: its key where it is ours, so that it is found again."""
    folder = tree.path / ASIDE
    folder.mkdir(exist_ok=True)
    # what lies here is no change of the source
    (folder / ".gitignore").write_text("*\n")
    if state is not None and not (folder / state.fingerprint.key).exists():
        return folder / state.fingerprint.key
    number = 1
    while (folder / f"before-{number}").exists():
        number += 1
    return folder / f"before-{number}"


def _put_products_aside(tree: Tree, folder: Path) -> None:
    """Libraries of the other build must not end up in this one's wheel."""
    listed = git(tree.path, "ls-files", "torch/lib") if tree.commit else ""
    tracked = set(listed.split())
    for file in (tree.path / "torch" / "lib").glob("*.so*"):
        if str(file.relative_to(tree.path)) not in tracked and file.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            os.rename(file, folder / file.name)

"""Builds that are stopped, killed, starved and disturbed: nothing is lost, and no compiler stays behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from doctor.compile.ninja import ninja
from doctor.work import processes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HEAVY = """
#include <array>
#include <tuple>
#include <utility>
template <int N> struct Heavy{0} {{
  template <class... T> static int f(std::tuple<T...> t) {{
    return Heavy{0}<N - 1>::f(std::tuple_cat(t, std::make_tuple(std::array<int, N>{{}})));
  }}
}};
template <> struct Heavy{0}<0> {{
  template <class... T> static int f(std::tuple<T...>) {{ return sizeof...(T); }}
}};
int torch_heavy_{0}() {{ return Heavy{0}<20>::f(std::tuple<>{{}}); }}
"""
"""Its compiler takes 180 MB (gcc 12)."""

BIG = "extern const char torch_big[9000000];\nconst char torch_big[9000000] = {1};\n"
"""Nine MB of object."""

CGROUP = Path("/sys/fs/cgroup/memory")


def endless(workshop: Any) -> dict[str, str]:
    """Two files that their compilers wait for until they are ended: a pipe that nobody writes to."""
    pipe = workshop.folder / "pipe"
    os.mkfifo(pipe)
    return {f"torch/csrc/ops/endless_{i}.cpp": f'#include "{pipe}"\n' for i in range(2)}


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def compiling(tree: Path) -> list[int]:
    """Compilers proper of a tree's build."""
    found = []
    for pid in processes.marked(str(tree)):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().startswith("cc1plus"):
                found.append(pid)
    return found


def made(tree: Path) -> set[str]:
    return {name for name in ninja.read_log(tree / "build") if name.endswith(".o")}


MOMENTS: list[Callable[[Any, Path], bool]] = [
    lambda workshop, tree: "Configuring" in workshop.said(),
    lambda workshop, tree: (tree / "build" / "build.ninja").exists(),
    lambda workshop, tree: len(made(tree)) > 0,
    lambda workshop, tree: "Packing" in workshop.said(),
    lambda workshop, tree: "Proving" in workshop.said(),
]


def test_kills_in_every_phase(workshop: Any) -> None:
    """What was compiled before a kill is not compiled again, and the wheel is whole."""
    tree = workshop.tree()
    before: set[str] = set()
    for moment in MOMENTS:
        begun = (tree / "build" / ".nanochat-doctor.json").exists()
        process = workshop.start(tree, "--no-libuv", *(["--resume"] if begun else []))
        wait_for(lambda: process.poll() is not None or moment(workshop, tree))  # noqa: B023
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, workshop.said()
        assert "Traceback" not in workshop.said(), workshop.said()
        now = made(tree)
        assert now >= before, before - now
        before = now
    assert before
    stamps = {name: (tree / "build" / name).stat().st_mtime_ns for name in before}
    done = workshop.run(tree, "--no-libuv", "--resume")
    assert done.status == 0, done.err
    for name, stamp in stamps.items():
        assert (tree / "build" / name).stat().st_mtime_ns == stamp, name
    assert "two ranks, gloo: works" in done.err, done.err
    assert processes.marked(str(tree)) == []


def test_a_killed_build_leaves_no_compilers(workshop: Any) -> None:
    """ninja is asked to end when its starter dies, and takes its compilers with it."""
    tree = workshop.tree(ops=1, files=endless(workshop))
    process = workshop.start(tree, "--no-libuv")
    wait_for(lambda: len(compiling(tree)) > 0)
    process.kill()
    process.wait()
    wait_for(lambda: not compiling(tree), 10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_every_compiler(workshop: Any, number: int) -> None:
    tree = workshop.tree(ops=1, files=endless(workshop))
    process = workshop.start(tree, "--no-libuv")
    wait_for(lambda: len(compiling(tree)) > 0)
    process.send_signal(number)
    status = process.wait(60)
    assert processes.GRACE <= 2, "seconds after which what was asked to end is ended"
    assert status == 128 + number and processes.marked(str(tree)) == []
    assert "Go on with --resume" in workshop.said() and "Traceback" not in workshop.said()


SLEEPY = """#!/bin/sh
case " $* " in
  *" {word} "*) echo $$ > {folder}/pid; sleep 300 & echo $! >> {folder}/pid; wait;;
esac
exec {real} "$@"
"""
"""A program that hangs at one command, with a child that is none of ours."""


def sleepy(folder: Path, name: str, word: str) -> dict[str, str]:
    """An environment whose program of a name hangs so."""
    real = shutil.which(name) or "/bin/true"
    (folder / "bin").mkdir()
    (folder / "bin" / name).write_text(SLEEPY.format(word=word, folder=folder, real=real))
    (folder / "bin" / name).chmod(0o755)
    return {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("name", "word", "clone"),
    [
        ("git", "ls-remote", True),
        ("git", "init", True),
        ("git", "status", False),
        ("uv", "venv", False),
    ],
)
def test_ctrl_c_leaves_no_child_in_any_phase(
    workshop: Any, name: str, word: str, clone: bool
) -> None:
    """Asking mirrors, cloning, looking at the tree, proving; not the program that hangs, nor its child."""
    tree = None if clone else workshop.tree(ops=1)
    workshop.env |= sleepy(workshop.folder, name, word)
    if word == "init":
        asked = workshop.folder / "bin" / name
        asked.write_text(
            asked.read_text().replace('case " $* " in', 'case " $* " in *" ls-remote "*) exit 0;;')
        )
    process = workshop.start(tree, *(["--ref", "topic"] if clone else []), "--no-libuv")
    noted = workshop.folder / "pid"
    wait_for(lambda: noted.exists() and len(noted.read_text().split()) == 2, 120)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130, workshop.said()
    for pid in noted.read_text().split():
        status = Path(f"/proc/{pid}/stat")
        assert not status.exists() or status.read_text().split()[2] == "Z", word
    assert "Stopped by SIGINT" in workshop.said() and "Traceback" not in workshop.said()


def test_a_second_build_in_the_same_tree_is_refused(workshop: Any) -> None:
    tree = workshop.tree(ops=1, files=endless(workshop))
    process = workshop.start(tree, "--no-libuv")
    try:
        wait_for(lambda: len(compiling(tree)) > 0)
        second = workshop.run(tree, "--no-libuv")
        assert second.status == 1 and "Another build is at work" in second.err, second.err
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def test_resume_refuses_what_changed_and_puts_nothing_out_of_reach(workshop: Any) -> None:
    """Another wish puts the objects aside; the first wish finds them again."""
    tree = workshop.tree(ops=2, files={"torch/csrc/ops/bad.cpp": "int bad() { return x; }\n"})
    nothing = workshop.run(tree, "--no-libuv", "--resume")
    assert nothing.status == 1 and "no unfinished build" in nothing.err
    assert workshop.run(tree, "--no-libuv", "--jobs", "1").status == 1
    first = made(tree)
    flags = workshop.run(tree, "--no-libuv", "--resume", env={"CXXFLAGS": "-DX=1"})
    assert flags.status == 1 and "CXXFLAGS (not set → -DX=1)" in flags.err
    assert made(tree) == first
    other = workshop.run(tree, "--no-libuv", env={"CXXFLAGS": "-DX=1"})
    assert other.status == 1 and "bad.cpp" in other.err
    back = workshop.run(tree, "--no-libuv")
    assert "Going on with" in back.err and made(tree) >= first
    assert len(list((tree / "build.aside").glob("[!.]*"))) == 1
    foreign = workshop.folder / "foreign"
    (tree / "build").rename(foreign)
    (tree / "build").mkdir()
    (tree / "build" / "mine.txt").write_text("precious")
    assert workshop.run(tree, "--no-libuv").status == 1
    assert (tree / "build.aside" / "before-1" / "mine.txt").read_text() == "precious"


@contextlib.contextmanager
def memory_group(limit_mb: int) -> Iterator[Path]:
    """A control group with a limit; skips where none may be made."""
    place = CGROUP / f"nanochat-test-{os.getpid()}"
    try:
        place.mkdir()
        (place / "memory.limit_in_bytes").write_text(str(limit_mb << 20))
    except OSError as error:
        pytest.skip(f"no control group with a memory limit can be made here: {error}")
    try:
        yield place
    finally:
        wait_for(lambda: not (place / "cgroup.procs").read_text().strip(), 10)
        place.rmdir()


def test_a_compiler_killed_for_memory_halves_the_jobs(workshop: Any) -> None:
    """The kernel itself kills, in a control group where one heavy object fits and two do not."""
    tree = workshop.tree(
        ops=1, files={f"torch/csrc/ops/heavy_{i}.cpp": HEAVY.format(i) for i in (1, 2)}
    )
    with memory_group(230) as group:
        process = workshop.start(tree, "--no-libuv", "--jobs", "2", "--json")
        wait_for(lambda: '"configure"' in workshop.said())
        # only now: the preflight would see the limit and refuse
        (group / "cgroup.procs").write_text(str(process.pid))
        assert process.wait(200) == 0, workshop.said()
    said = workshop.said()
    assert '"event": "out-of-memory"' in said and '"jobs": 1' in said
    assert '"event": "done"' in said


def test_an_object_that_never_fits_ends_the_build(workshop: Any) -> None:
    """With one job there is nothing to halve; the limit is the compiler's own (ulimit -v)."""
    tree = workshop.tree(ops=1, files={"torch/csrc/ops/heavy_1.cpp": HEAVY.format(1)})
    narrow = workshop.folder / "narrow"
    narrow.mkdir()
    real = shutil.which("g++")
    (narrow / "g++").write_text(f'#!/bin/sh\nulimit -v 160000\nexec {real} "$@"\n')
    (narrow / "g++").chmod(0o755)
    path = f"{narrow}:{workshop.env['PATH']}"
    done = workshop.run(tree, "--no-libuv", "--jobs", "1", env={"PATH": path})
    assert done.status == 1
    assert "heavy_1.cpp.o: the compiler got no more memory (build.out-of-memory)" in done.err, (
        done.err
    )


def test_a_failing_object_that_was_mended(workshop: Any) -> None:
    """The source changed, so --resume refuses; without it the mended build is made, by its own key."""
    tree = workshop.tree(ops=1, files={"torch/csrc/ops/bad.cpp": "int bad() { return x; }\n"})
    assert workshop.run(tree, "--no-libuv").status == 1
    (tree / "torch/csrc/ops/bad.cpp").write_text("int bad() { return 0; }\n")
    assert workshop.run(tree, "--no-libuv", "--resume").status == 1
    done = workshop.run(tree, "--no-libuv")
    assert done.status == 0 and ".dirty.cpu-" in done.out, done.err


def test_a_full_disk_is_named(workshop: Any, tmp_path: Path) -> None:
    """The tree lies on a small disk of its own; nothing of it is lost."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        tree = workshop.tree(
            "disk/pytorch", ops=1, libuv=None, files={"torch/csrc/ops/big.cpp": BIG}
        )
        done = workshop.run(tree, "--no-libuv")
        assert done.status == 1 and "host.disk-full" in done.err, done.err
        assert "--resume" in done.err and "Traceback" not in done.err
    finally:
        subprocess.run(["umount", str(disk)], check=True)

"""kill -9 between any two changes of apply and undo, in all orders: the way back stays, and so do the user's files."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from apply_world import NEW, NEWEST, OLD, Bare, World, make_world, torch_wheel
from index_server import IndexServer, make_wheel

from doctor.environment import integrity
from doctor.install import journal, snapshot
from doctor.planner.terms.plan import Plan
from doctor.work import files
from doctor.work.programs import Log

pytest_plugins = ("apply_fixtures",)

EVERY = int(os.environ.get("NANOCHAT_TEST_KILLS_EVERY", "9"))
"""Of the moments between two changes, each so-manieth is tried; 1 tries all, in all orders."""

CHANGES = (
    (files, "write_bytes"),
    (files, "remove"),
    (journal.Journal, "_append"),
    (Log, "run"),
    (snapshot, "forget"),
    (integrity, "_move"),
)
"""All that apply and undo change a machine by."""

USERS = {
    "pip.conf": b"[global]\r\ntimeout = 7",
    "lib/{}/site-packages/of_the_user.py": b"x = 1\n",
    "../uv.toml": b"concurrent-downloads = 4\r\n",
}


class Counter:
    """Kills its own process before the change of a number, or after the last one counts them."""

    def __init__(self, deadly: int | None) -> None:
        self.deadly = deadly
        self.seen = 0

    def watch(self, owner: object, name: str) -> None:
        real: Callable[..., object] = getattr(owner, name)

        def watched(*arguments: object, **named: object) -> object:
            if self.seen == self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            self.seen += 1
            return real(*arguments, **named)

        setattr(owner, name, watched)


def run(world: World, plan: Plan | None, deadly: int | None = None) -> int:
    """apply (undo without a plan) in a process of its own; the number of its changes, -1 where it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        counter = Counter(deadly)
        for owner, name in CHANGES:
            counter.watch(owner, name)
        try:
            world.undo() if plan is None else world.apply(plan)
            os.write(writing, str(counter.seen).encode())
            os._exit(0)
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
            os._exit(1)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with open(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    if os.WIFSIGNALED(status):
        return -1
    assert status == 0, said
    return int(said)


def contents(prefix: Path) -> dict[str, bytes]:
    """All files of an environment, but for our own notes and what installers write about themselves."""
    skipped = ("nanochat-doctor", "__pycache__", ".lock")
    own = ("RECORD", "INSTALLER", "REQUESTED", "uv_cache.json")
    return {
        str(path.relative_to(prefix)): path.read_bytes()
        for path in sorted(prefix.rglob("*"))
        if path.is_file() and path.name not in own and not set(path.parts) & set(skipped)
    }


class Machine:
    """An environment that has a torch and files of the user, to be had again and again."""

    def __init__(self, world: World, kept: Path) -> None:
        self.world = world
        for name, data in USERS.items():
            path = world.prefix / name.format(world.target.site.parent.name)
            path.write_bytes(data)
        # in the ledger, so that undo knows the index again
        world.apply(world.torch_plan(OLD, f"{world.index.url}/cpu"))
        world.put("tinynum==1.0")
        (world.state / snapshot.NAME).unlink()  # nothing to undo but what comes
        self.plan = world.torch_plan(NEW, f"{world.index.url}/cpu", world.trainer())
        self.other = world.torch_plan(NEWEST, f"{world.index.url}/cpu")
        self.kept = kept
        shutil.copytree(world.checkout, kept, symlinks=True)
        self.before = contents(world.prefix)
        self.uv_toml = (world.checkout / "uv.toml").read_bytes()

    def again(self) -> World:
        """The machine as it was."""
        shutil.rmtree(self.world.checkout)
        shutil.copytree(self.kept, self.world.checkout, symlinks=True)
        return self.world

    def is_as_before(self) -> None:
        now = contents(self.world.prefix)
        assert now == self.before, set(now) ^ set(self.before)
        assert (self.world.checkout / "uv.toml").read_bytes() == self.uv_toml
        assert not integrity.damaged(self.world.target.site)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, bare: Bare) -> Iterator[Machine]:
    with IndexServer() as index, pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("kills")
        for name in list(os.environ):
            if name.startswith(("PIP_", "UV_", "CONDA_")) or name in ("VIRTUAL_ENV", "PYTHONPATH"):
                patch.delenv(name)
        for name, value in {
            "HOME": str(folder),
            "UV_CACHE_DIR": str(folder / "uv"),
            "PIP_INDEX_URL": f"{index.url}/simple",
        }.items():
            patch.setenv(name, value)
        world = make_world(folder / "world", index, "uv", bare)
        yield Machine(world, folder / "kept")


# Each order is a row of `apply`, `other` (a plan for another torch) and `undo`; the marked one is killed.
ORDERS = [
    ("apply*", "apply", "undo"),
    ("apply", "undo*", "other", "undo"),
    ("apply*", "undo*", "undo"),
    ("apply*", "other", "undo"),
    ("apply", "undo*", "undo"),
    ("apply", "undo*", "apply", "undo"),
    ("apply", "undo*", "apply*", "undo*", "undo"),
][: 3 if EVERY > 1 else None]


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_the_end_is_the_beginning_wherever_it_was_killed(
    machine: Machine, order: tuple[str, ...]
) -> None:
    deadly, killed = ORDERS.index(order) % EVERY, True
    while killed:
        world, killed, left = machine.again(), False, set[int]()
        for number, word in enumerate(order):
            name = word.rstrip("*")
            plan = {"apply": machine.plan, "other": machine.other, "undo": None}[name]
            if not word.endswith("*"):
                run(world, plan)
            elif run(world, plan, deadly + number % 2) < 0:
                killed = True
                left.add(leave_something(world, number))
        if killed:  # else it went to its end, which is no matter of kills
            assert take_back(world) == left
            machine.is_as_before()
        deadly += EVERY


def leave_something(world: World, number: int) -> int:
    """What a user puts beside packages, not knowing that something was cut off; returns the number."""
    folder = world.target.site / f"my_research_{number}"
    folder.mkdir()
    (folder / "result.csv").write_text("42")
    (world.target.site / f"mypath_{number}.pth").write_text("/srv\n")
    return number


def take_back(world: World) -> set[int]:
    """The numbers of what the user had put there; it is where it was, or in the folder of what was set aside."""
    found = set()
    for path in list(world.prefix.rglob("my_research_*")):
        number = int(path.name.rpartition("_")[2])
        assert (path / "result.csv").read_text() == "42"
        (pth,) = world.prefix.rglob(f"mypath_{number}.pth")
        assert pth.read_text() == "/srv\n"
        shutil.rmtree(path)
        pth.unlink()
        found.add(number)
    return found


def test_what_the_user_installed_since_stays(machine: Machine) -> None:
    """Also what it needs; and what the user has replaced is the user's, but for torch."""
    world = machine.again()
    world.serve("simple", make_wheel("mine", "1", requires=["tinynum>=1.5"], with_metadata=True),
                torch_wheel("2.16.0"))  # fmt: skip
    run(world, machine.plan)
    world.put("mine")
    world.put("tinynum==1.6")
    run(world, None)
    assert world.packages() == {"torch": OLD, "helper": "1.0", "tinynum": "1.6", "mine": "1"}

"""apply against an index on loopback, by uv and by pip: install, replace, undo, and an index that lies."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from apply_world import (
    NEW,
    NEWEST,
    OLD,
    REPO,
    Bare,
    World,
    ended,
    kill,
    make_world,
    torch_wheel,
    wait_for,
)
from index_server import IndexServer, Trouble, Wheel, make_wheel

from doctor.errors import DoctorError
from doctor.install import effects, snapshot
from doctor.planner.terms.plan import Step, TorchChoice
from doctor.text.toml import tomllib

pytest_plugins = ("apply_fixtures",)


@pytest.fixture
def cpu(world: World) -> str:
    return f"{world.index.url}/cpu"


def test_installs_what_the_plan_says_and_then_has_nothing_to_do(world: World, cpu: str) -> None:
    plan = world.torch_plan(NEW, cpu, world.trainer())
    done = world.apply(plan)
    assert [(step.id, step.outcome) for step in done.steps] == [
        ("torch", "done"),
        ("trainer", "done"),
    ]
    assert world.packages() == {"torch": NEW, "helper": "1.0", "tinynum": "2.0"}
    assert world.version() == NEW
    assert world.pinned() == {"torch": NEW, "helper": "1.0"}
    assert world.unbroken()
    asked = len(world.index.requests)
    again = world.apply(plan)
    assert not again.changed
    assert {step.outcome for step in again.steps} == {"already done"}
    assert len(world.index.requests) == asked, "nothing to do asks nobody"


def test_replaces_a_torch_and_undo_brings_it_back(
    world: World, cpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_COMPILE")  # once with what pip compiles, as it does for users
    world.put(f"torch=={OLD}", "tinynum==1.0", index=cpu_and_simple(world))
    before = world.packages()
    world.apply(world.torch_plan(NEW, cpu, world.trainer()))
    assert world.packages() == {"torch": NEW, "helper": "1.0", "tinynum": "2.0"}
    # the index it came from is not known: it was put in by hand
    origins = world.state / snapshot.NAME
    kept = json.loads(origins.read_text())
    for package in kept["packages"]:
        if package["name"] == "torch":
            package["index"] = cpu
    origins.write_text(json.dumps(kept))
    assert world.undo().changed
    assert world.packages() == before
    assert world.version() == OLD
    assert world.unbroken()
    assert not world.pinned()
    assert not (world.prefix / "pip.conf").exists()
    assert not (world.checkout / "uv.toml").exists()
    assert not world.undo().changed
    assert world.said == ["there is nothing to undo"]


def cpu_and_simple(world: World) -> str:
    """An index that has all of it, as a mirror would."""
    return world.serve("all", torch_wheel(OLD, requires=["helper==1.0"]),
                       make_wheel("helper", "1.0"), make_wheel("tinynum", "1.0"))  # fmt: skip


def test_undo_knows_the_index_of_what_an_earlier_apply_put_in(world: World, cpu: str) -> None:
    world.apply(world.torch_plan(OLD, cpu))
    world.apply(world.torch_plan(NEWEST, cpu))
    assert world.version() == NEWEST
    assert world.undo().changed
    assert world.version() == OLD
    assert world.pinned() == {"torch": OLD, "helper": "1.0"}, "pinned as it was before"


def test_shows_what_will_change_and_asks(world: World, cpu: str) -> None:
    world.apply(world.torch_plan(OLD, cpu))
    questions: list[str] = []

    def no(question: str) -> bool:
        questions.append(question)
        return False

    done = world.apply(world.torch_plan(NEW, cpu, world.trainer()), confirm=no)
    assert done.declined and not done.changed and len(questions) == 1
    assert world.packages()["torch"] == OLD
    text = "\n".join(world.said)
    assert f"torch {OLD}" in text
    assert f"replaces torch {OLD} → {NEW}" in text or f"torch=={NEW}" in text
    assert "tinynum" in text and "to download" in text
    assert ("replaces" in text) == (world.tool == "uv"), "pip would have to download it to know"


def test_a_tag_that_the_requirement_names_counts(uv_world: World) -> None:
    """torch 2.14.0 is there, but for CPUs."""
    world = uv_world
    world.serve("cu128", torch_wheel("2.14.0+cu128", cuda="12.8"))
    world.apply(world.torch_plan(NEW, f"{world.index.url}/cpu"))
    url = f"{world.index.url}/cu128"
    command = world.install("torch==2.14.0", index=url, again=True)
    plan = world.plan(
        Step("torch", "Install torch", (command,)),
        torch=TorchChoice("2.14.0", url, "torch==2.14.0"),
        route="stable-wheel",
    )
    assert world.apply(plan).changed
    assert world.version() == "2.14.0+cu128"
    assert not world.apply(plan).changed


# --- an index that is in trouble


TROUBLES = {
    "error": (Trouble(status=500), "answered with an error"),
    "missing": (Trouble(status=404), "no such version|could not be reached|ended with status"),
    "cut": (Trouble(cut=2000), "cut or damaged|hash differs|could not be reached"),
    "hanging": (Trouble(hang=True), "in time"),
}


@pytest.mark.slow
def test_a_wheel_that_does_not_come_leaves_the_old_torch(world: World, cpu: str) -> None:
    """One trouble after another, in one environment; without any it goes on."""
    world.apply(world.torch_plan(OLD, cpu))
    file = "/cpu/files/torch-2.14.0+cpu-py3-none-any.whl"
    for trouble, (what, words) in TROUBLES.items():
        world.index.troubles |= {file: what, f"{file}.metadata": Trouble()}
        with pytest.raises(DoctorError, match=words) as caught:
            world.apply(world.torch_plan(NEW, cpu))
        assert "Step torch failed" in str(caught.value), trouble
        assert str(world.state / "logs") in str(caught.value)
        assert world.version() == OLD and world.unbroken(), trouble
        assert world.pinned()["torch"] == OLD, "what works stays pinned"
        assert world.events()[-1] == ("torch", "failed")
    world.index.troubles.clear()
    world.apply(world.torch_plan(NEW, cpu))
    assert world.version() == NEW


@pytest.mark.slow
def test_an_index_page_that_does_not_come(world: World, cpu: str) -> None:
    for trouble in ("error", "missing", "hanging"):
        world.index.troubles["/cpu/torch/"] = TROUBLES[trouble][0]
        with pytest.raises(DoctorError, match="Step torch failed"):
            world.apply(world.torch_plan(NEW, cpu))
        assert not world.packages() and world.unbroken(), trouble


def test_a_hash_that_lies(world: World, cpu: str) -> None:
    world.apply(world.torch_plan(OLD, cpu))
    good = torch_wheel(NEW, requires=["helper==1.0"])
    world.serve("lying", replace(good, sha256="0" * 64), make_wheel("helper", "1.0"))
    with pytest.raises(DoctorError, match="hash differs"):
        world.apply(world.torch_plan(NEW, f"{world.index.url}/lying"))
    assert world.version() == OLD and world.unbroken()


def test_a_companion_that_does_not_come_leaves_the_old_torch(world: World, cpu: str) -> None:
    """All wheels are whole on this disk before the old torch goes."""
    world.apply(world.torch_plan(OLD, cpu))
    url = world.serve(
        "pair", torch_wheel(NEW, requires=["gigantic==1"]), make_wheel("gigantic", "1")
    )
    world.index.troubles["/pair/files/gigantic"] = Trouble(cut=100)
    with pytest.raises(DoctorError, match="Step torch failed"):
        world.apply(world.torch_plan(NEW, url))
    assert world.version() == OLD and world.unbroken()


def test_a_wheel_for_another_machine(world: World) -> None:
    url = world.serve("arm", make_wheel("torch", "2.14.0", tag="cp38-cp38-macosx_11_0_arm64"))
    with pytest.raises(DoctorError, match=r"fits this Python|no such version"):
        world.apply(world.torch_plan("2.14.0", url))
    assert not world.packages()


def test_half_a_wheel(world: World) -> None:
    """Cut on the index itself, so that length and hash agree."""
    whole = torch_wheel(NEW)
    url = world.serve("half", Wheel(whole.name, whole.data[: len(whole.data) // 2]))
    with pytest.raises(
        DoctorError, match="Step torch failed, because a file arrived cut or damaged"
    ):
        world.apply(world.torch_plan(NEW, url))
    assert not world.packages() and world.unbroken()


def test_a_slow_index_is_waited_for(uv_world: World) -> None:
    world = uv_world
    world.index.troubles["/cpu/files/"] = Trouble(delay=0.3)
    world.apply(world.torch_plan(NEW, f"{world.index.url}/cpu"))
    assert world.version() == NEW


def test_a_command_that_takes_too_long_is_ended(
    uv_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = uv_world
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "60")
    world.index.troubles["/cpu/torch/"] = Trouble(hang=True)
    plan = world.torch_plan(NEW, f"{world.index.url}/cpu", minutes=0)
    with pytest.raises(DoctorError, match="not done within 1 s"):
        world.apply(plan, seconds=1)
    assert world.events()[-1] == ("torch", "failed")


def test_the_wrong_thing_installed_is_a_failure_whatever_the_status(uv_world: World) -> None:
    """The command ends well, and what it was for is not there."""
    world = uv_world
    url = f"{world.index.url}/cpu"
    plan = world.plan(
        Step("torch", "Install torch", (world.install(f"torch=={OLD}", index=url),)),
        torch=TorchChoice(NEW, url, f"torch=={NEW}"),
    )
    with pytest.raises(
        DoctorError, match=r"ended well, but torch 2\.13\.0\+cpu is installed instead"
    ):
        world.apply(plan)


# --- torch is left alone


def test_no_other_step_may_change_torch(world: World, cpu: str) -> None:
    world.serve("simple", make_wheel("greedy", "1", requires=["torch>=2.16"], with_metadata=True))
    world.apply(world.torch_plan(NEW, cpu))
    greedy = Step("trainer", "Install the rest", (world.install("greedy"),))
    with pytest.raises(
        DoctorError, match=r"Step trainer failed, because .*contradicts the torch .*no such version"
    ):
        world.apply(world.plan(greedy))
    assert world.packages() == {"torch": NEW, "helper": "1.0"}
    forced = Step("trainer", "…", (f"{world.install('torch')} --upgrade --no-deps",))
    (world.prefix / "pip.conf").unlink()
    with pytest.raises(DoctorError):
        world.apply(world.plan(forced))
    assert world.version() == NEW


def test_a_step_that_would_reinstall_torch_is_refused(uv_world: World) -> None:
    world = uv_world
    url = world.serve("mirror", torch_wheel(NEW), make_wheel("tinynum", "2.0"))
    world.apply(world.torch_plan(NEW, url))
    command = world.install("tinynum", "torch", index=url, again=True)
    forced = Step("trainer", "Install the rest", (command,))
    with pytest.raises(DoctorError, match="which the plan leaves alone"):
        world.apply(world.plan(forced))
    assert world.packages() == {"torch": NEW}


def test_no_torch_comes_in_by_a_side_door(uv_world: World) -> None:
    world = uv_world
    world.serve("simple", make_wheel("greedy", "1", requires=["torch"], with_metadata=True))
    with pytest.raises(DoctorError, match=r"would change torch 2\.16\.0"):
        world.apply(world.plan(Step("trainer", "…", (world.install("greedy"),))))
    assert not world.packages()


# --- kills, signals, two at once


def hang_up_on_torch(world: World) -> None:
    """The new torch's wheel never comes, though all about it does."""
    file = f"/cpu/files/torch-{NEW}-py3-none-any.whl"
    world.index.troubles |= {file: Trouble(hang=True), f"{file}.metadata": Trouble()}
    os.environ |= {"UV_HTTP_TIMEOUT": "60", "PIP_TIMEOUT": "60"}


def wait_until_it_hangs(world: World) -> None:
    """The installing has begun, and its tool waits for the wheel."""
    name = f"torch-{NEW}-py3-none-any.whl"
    wait_for(lambda: any(r.path.endswith(name) for r in list(world.index.requests)))
    assert world.began("torch")


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_end(
    tmp_path: Path, index: IndexServer, bare: Bare, small_environment: None
) -> None:
    """Four moments over the whole run, the last of them in the thick of replacing torch."""
    index.troubles["/cpu/files/"] = Trouble(delay=0.1)
    index.troubles["/simple/files/"] = Trouble(delay=0.1)
    world = make_world(tmp_path / "reference", index, "uv", bare)
    plan = world.torch_plan(NEW, f"{index.url}/cpu", world.trainer())
    world.put(f"torch=={OLD}", index=f"{index.url}/cpu")
    began = time.monotonic()
    status, out = ended(world.start(plan))
    whole = time.monotonic() - began
    assert status == 0, out
    reference = world.packages()
    moments = [whole * part / 10 for part in (2, 5, 7, 9)]
    for number, moment in enumerate(moments):
        world = make_world(tmp_path / str(number), index, "uv", bare)
        os.environ["UV_CACHE_DIR"] = str(tmp_path / f"uv{number}")
        plan = world.torch_plan(NEW, f"{index.url}/cpu", world.trainer())
        world.put(f"torch=={OLD}", index=f"{index.url}/cpu")
        process = world.start(plan)
        time.sleep(moment)
        kill(process)
        status, out = ended(world.start(plan))
        assert status == 0, out
        assert world.packages() == reference
        assert world.version() == NEW and world.unbroken()
        assert world.pinned() == {"torch": NEW, "helper": "1.0"}
        assert not world.apply(plan).changed


@pytest.mark.slow
@pytest.mark.parametrize("back", [False, True])
def test_killed_in_the_thick_of_replacing_torch(
    world: World, back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one is on its way out: both programs are killed, then apply or undo goes on."""
    monkeypatch.setenv("UV_LINK_MODE", "copy")
    url = world.serve("big", torch_wheel(OLD, files=1500), torch_wheel(NEW, files=1500))
    world.apply(world.torch_plan(OLD, url))
    plan = world.torch_plan(NEW, url)
    old = world.target.site / "torch" / "part_2_13_1499.py"
    process = world.start(plan)
    wait_for(lambda: not old.exists(), seconds=60)
    kill(process)
    for pid in commands_of(world):
        os.kill(pid, signal.SIGKILL)
    if world.tool == "pip":
        assert not world.unbroken(), "pip takes its time"
    assert (world.undo() if back else world.apply(plan)).changed or world.version() == NEW
    assert world.version() == (OLD if back else NEW) and world.unbroken()
    kept = list((world.target.site / "torch").glob("part_*"))
    assert len(kept) == 1500, "no file of the other one stays"


def test_what_a_kill_left_half_installed_is_mended(world: World, cpu: str) -> None:
    """Traces of every kind, laid by hand."""
    world.apply(world.torch_plan(OLD, cpu))
    plan = world.torch_plan(NEW, cpu)
    hang_up_on_torch(world)
    process = world.start(plan)
    wait_until_it_hangs(world)
    kill(process)
    site = world.target.site
    info = site / f"torch-{OLD}.dist-info"
    shutil.copytree(info, site / f"~orch-{OLD}.dist-info")
    (site / "~orch").mkdir()
    (site / "torch" / "version.py").unlink()
    (site / "torch" / "of_the_next_version.py").write_text("x = 1\n")
    world.index.troubles.clear()
    assert world.apply(plan).changed
    assert any("cut off in step torch" in line for line in world.said)
    assert any(line.startswith("sets aside what was half-installed") for line in world.said)
    assert world.version() == NEW and world.unbroken()
    assert not list(site.glob("~*")) and not (site / "torch" / "of_the_next_version.py").exists()
    (aside,) = (world.state / "set-aside").iterdir()
    assert any(str(aside) in line for line in world.said)
    moved = aside / site.relative_to(world.prefix)
    assert (moved / "torch" / "of_the_next_version.py").read_text() == "x = 1\n"
    assert (moved / f"~orch-{OLD}.dist-info" / "METADATA").exists()


def test_undo_after_a_kill_brings_back_the_old_torch(world: World, cpu: str) -> None:
    world.apply(world.torch_plan(OLD, cpu))
    hang_up_on_torch(world)
    process = world.start(world.torch_plan(NEW, cpu, world.trainer()))
    wait_until_it_hangs(world)
    kill(process)
    shutil.rmtree(world.target.site / "torch")
    assert world.undo().changed
    assert world.packages() == {"torch": OLD, "helper": "1.0"}
    assert world.version() == OLD and world.unbroken()


def test_commands_that_a_killed_apply_left_are_ended(uv_world: World) -> None:
    world = uv_world
    url = f"{world.index.url}/cpu"
    hang_up_on_torch(world)
    plan = world.torch_plan(NEW, url)
    process = world.start(plan)
    wait_until_it_hangs(world)
    kill(process)
    assert commands_of(world), "uv goes on by itself"
    world.index.troubles.clear()
    assert world.apply(plan).changed
    assert not commands_of(world)
    assert world.version() == NEW


def commands_of(world: World) -> list[int]:
    """Processes of a step's commands."""
    mark = f"NANOCHAT_DOCTOR_LOCK={world.state / 'lock'}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_commands_too(uv_world: World, number: int) -> None:
    world = uv_world
    hang_up_on_torch(world)
    plan = world.torch_plan(NEW, f"{world.index.url}/cpu")
    process = world.start(plan)
    wait_until_it_hangs(world)
    process.send_signal(number)
    status, out = ended(process)
    assert status != 0, out
    assert not commands_of(world)
    assert world.events()[-1] == ("torch", "failed"), out
    world.index.troubles.clear()
    assert world.apply(plan).changed


def test_two_at_once_are_kept_apart(uv_world: World) -> None:
    world = uv_world
    world.index.troubles[f"/cpu/files/torch-{NEW}"] = Trouble(delay=1.0)
    plan = world.torch_plan(NEW, f"{world.index.url}/cpu")
    first = world.start(plan)
    wait_for(lambda: world.index.asked("/cpu/files/"))
    with pytest.raises(DoctorError, match=f"process {first.pid} is already changing"):
        world.apply(plan)
    done = world.apply(plan, wait=True)
    assert not done.changed, "the first has done it"
    assert world.said[0].startswith(f"waiting for process {first.pid}")
    assert ended(first)[0] == 0
    assert world.version() == NEW


# --- room, rights, wrong plans


def test_no_room_is_said_before_anything_starts(uv_world: World) -> None:
    world = uv_world
    step = Step("trainer", "Install the rest", (world.install("tinynum"),), 1, 10**9)
    with pytest.raises(DoctorError, match=r"need about 1050 TB on the disk of"):
        world.apply(world.plan(step))
    assert not world.packages() and not world.index.requests


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk, for which one must be root")
def test_a_disk_that_fills_up_leaves_a_mark_and_a_way_on(uv_world: World) -> None:
    world = uv_world
    small = world.folder / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("no disk can be mounted here")
    try:
        shutil.copytree(world.prefix, small / "venv", symlinks=True)
        shutil.rmtree(world.prefix)
        world.prefix.symlink_to(small / "venv")
        url = world.serve("big", torch_wheel(NEW, files=900))
        with pytest.raises(DoctorError, match="the disk is full"):
            world.apply(world.torch_plan(NEW, url))
        assert world.events()[-1][1] in ("broken", "begin"), "a full disk may not take the line"
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        assert world.apply(world.torch_plan(NEW, url)).changed
        assert world.version() == NEW and world.unbroken()
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a read-only disk, for which one must be root")
def test_a_read_only_environment_is_one_sentence(uv_world: World) -> None:
    world = uv_world
    folder = str(world.prefix)
    if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode != 0:
        pytest.skip("no folder can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        with pytest.raises(DoctorError, match=r"cannot be written \(Read-only file system\)"):
            world.apply(world.plan(world.trainer()))
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_step_that_nobody_can_check_is_refused(uv_world: World) -> None:
    world = uv_world
    with pytest.raises(DoctorError, match="'frobnicate', and its effect cannot be checked"):
        world.apply(world.plan(world.trainer(), Step("frobnicate", "…", ("true",))))
    assert not world.packages()


@pytest.mark.parametrize("command", ["true && false", "echo 'open", "", "NAME=only"])
def test_a_command_that_needs_a_shell_is_refused(uv_world: World, command: str) -> None:
    with pytest.raises(DoctorError, match="make the plan again"):
        uv_world.apply(uv_world.plan(Step("trainer", "…", (command,))))


def test_a_blocked_plan_has_nothing_to_apply(uv_world: World) -> None:
    with pytest.raises(DoctorError, match="nothing to apply: a test"):
        uv_world.apply(uv_world.plan(route="blocked"))


def test_an_environment_is_made_where_there_is_none(world: World) -> None:
    shutil.move(world.prefix, world.folder / "base")
    base = world.folder / "base" / "bin" / "python"
    command = f"'{base}' -m venv '{world.prefix}'"
    if world.uv:
        command = f"{world.uv} venv --allow-existing --python '{base}' '{world.prefix}'"
    step = Step("environment", "Make an environment", (command,))
    done = world.apply(world.plan(step, world.trainer()))
    assert [s.outcome for s in done.steps] == ["done", "done"]
    assert world.packages() == {"tinynum": "2.0"}


def test_an_environment_with_pip_is_whole_only_with_it(uv_world: World) -> None:
    """A kill between the interpreter and its pip leaves half an environment."""
    world = uv_world
    for name in ("pip", "setuptools", "wheel"):
        world.serve("simple", make_wheel(name, "99", with_metadata=True))
    command = (
        f"{world.uv} venv --seed --allow-existing --python '{sys.executable}' '{world.prefix}'"
    )
    plan = world.plan(Step("environment", "Make an environment", (command,)))
    assert "pip" not in world.target.installed()
    assert world.apply(plan).changed
    assert world.target.installed()["pip"].version == "99"
    assert not world.apply(plan).changed


def test_a_declined_plan_leaves_no_folder_behind(uv_world: World) -> None:
    world = uv_world
    shutil.rmtree(world.prefix)
    step = Step(
        "environment",
        "Make an environment",
        (f"{world.uv} venv --allow-existing '{world.prefix}'",),
    )
    assert world.apply(world.plan(step), confirm=lambda question: False).declined
    assert not world.prefix.exists()


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("called", ['it\'s "a"\n$new `line`', "Prüfung 检查"])
def test_folders_of_any_name_and_an_environment_behind_a_link(
    tmp_path: Path, index: IndexServer, bare: Bare, small_environment: None, called: str, linked: bool
) -> None:  # fmt: skip
    world = make_world(tmp_path, index, "uv", bare, called)
    if linked:
        world.prefix.rename(tmp_path / "large disk")
        world.prefix.symlink_to(tmp_path / "large disk")
    plan = world.torch_plan(NEW, f"{index.url}/cpu", world.trainer())
    assert world.apply(plan).changed and not world.apply(plan).changed
    assert world.packages() == {"torch": NEW, "helper": "1.0", "tinynum": "2.0"}
    assert tomllib.loads((world.checkout / "uv.toml").read_text())
    assert world.pinned() == {"torch": NEW, "helper": "1.0"}
    assert world.undo().changed and world.packages() == {}
    assert {path.name for path in world.checkout.iterdir()} == {".venv", "pyproject.toml"}
    assert world.prefix.is_symlink() == linked


def test_every_step_of_the_planner_has_a_checker() -> None:
    text = (REPO / "doctor" / "planner" / "steps.py").read_text(encoding="utf-8")
    names = set(re.findall(r"""\b(?:Step|_sized)\(\s*"([\w-]+)\"""", text))
    assert {"torch", "trainer"} <= names <= set(effects.CHECKERS)

"""undo: what came from elsewhere than an index, and an undo that is itself cut off."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from apply_world import NEW, OLD, REPO, World, ended, kill, torch_wheel, wait_for
from index_server import Trouble, make_wheel

from doctor.errors import DoctorError
from doctor.install import snapshot
from doctor.install.snapshot import Package
from doctor.planner.terms.plan import Step

pytest_plugins = ("apply_fixtures",)


def test_notes_what_is_editable(uv_world: World) -> None:
    world = uv_world
    project = world.folder / "my project"
    (project / "mine").mkdir(parents=True)
    (project / "mine" / "__init__.py").write_text("")
    info = world.target.site / "mine-1.0.dist-info"
    info.mkdir()
    direct = {"url": project.as_uri(), "dir_info": {"editable": True}}
    for name, text in {
        "METADATA": "Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n",
        "INSTALLER": "uv\n",
        "direct_url.json": json.dumps(direct),
        "RECORD": "mine-1.0.dist-info/METADATA,,\n",
    }.items():
        (info / name).write_text(text)
    taken = snapshot.take(world.target, "plan")
    assert taken.packages["mine"].requirement == ("--editable", str(project))
    taken.save(world.state)
    assert snapshot.read(world.state) == taken


@pytest.mark.parametrize(
    ("package", "words"),
    [
        (Package("a", "1"), ("a==1",)),
        (Package("a", "1", {"url": "https://h/a-1.whl", "archive_info": {}}), ("a @ https://h/a-1.whl",)),
        (
            Package("a", "1", {"url": "https://h/a.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}),
            ("a @ git+https://h/a.git@c0ffee",),
        ),
        (
            Package("a", "1", {"url": "https://h/a.zip", "archive_info": {}, "subdirectory": "in"}),
            ("a @ https://h/a.zip#subdirectory=in",),
        ),
    ],
)  # fmt: skip
def test_a_package_says_how_to_get_it_again(package: Package, words: tuple[str, ...]) -> None:
    assert package.requirement == words


def test_brings_back_a_wheel_that_was_installed_by_its_path(uv_world: World) -> None:
    world = uv_world
    wheel = torch_wheel("2.12.0")
    path = world.folder / wheel.name
    path.write_bytes(wheel.data)
    world.put(str(path))
    world.apply(world.torch_plan(NEW, f"{world.index.url}/cpu"))
    assert world.version() == NEW
    world.undo()
    assert world.version() == "2.12.0" and world.unbroken()
    assert world.packages() == {"torch": "2.12.0"}


def test_pytorchs_own_index_has_what_a_tag_names(uv_world: World) -> None:
    world = uv_world
    world.put(f"torch=={OLD}", index=f"{world.index.url}/cpu")
    taken = snapshot.take(world.target, "plan")
    assert str(taken.packages["torch"].index).endswith("/whl/cpu")
    assert taken.packages["helper"].index is None


def test_what_cannot_be_had_again_is_said_and_nothing_is_lost(uv_world: World) -> None:
    world = uv_world
    world.apply(world.torch_plan(OLD, f"{world.index.url}/cpu"))
    world.apply(world.torch_plan(NEW, f"{world.index.url}/cpu"))
    shutil.rmtree(os.environ["UV_CACHE_DIR"])
    world.index.troubles["/cpu/"] = Trouble(status=404)
    with pytest.raises(DoctorError, match="Step undo failed"):
        world.undo()
    assert world.version() == NEW and world.unbroken()
    world.index.troubles.clear()
    assert world.undo().changed
    assert world.version() == OLD


@pytest.mark.slow
def test_an_undo_that_was_killed_goes_on(uv_world: World) -> None:
    world = uv_world
    world.apply(world.torch_plan(OLD, f"{world.index.url}/cpu"))
    world.apply(world.torch_plan(NEW, f"{world.index.url}/cpu", world.trainer()))
    shutil.rmtree(os.environ["UV_CACHE_DIR"])
    os.environ["UV_HTTP_TIMEOUT"] = "60"
    world.index.troubles["/cpu/files/"] = Trouble(hang=True)
    process = world.start(None)
    wait_for(lambda: world.began("undo"))
    kill(process)
    shutil.rmtree(world.target.site / "torch" / "lib")
    world.index.troubles.clear()
    assert ended(world.start(None))[0] == 0
    assert world.packages() == {"torch": OLD, "helper": "1.0"}
    assert world.version() == OLD and world.unbroken()


def test_an_apply_that_failed_keeps_the_first_way_back(uv_world: World) -> None:
    world = uv_world
    world.put("tinynum==1.0")
    plan = world.torch_plan(NEW, f"{world.index.url}/cpu", world.trainer())
    world.index.troubles["/simple/tinynum/"] = Trouble(status=500)
    with pytest.raises(DoctorError, match="Step trainer failed"):
        world.apply(plan)
    world.index.troubles.clear()
    world.apply(plan)
    assert world.packages() == {"torch": NEW, "helper": "1.0", "tinynum": "2.0"}
    world.undo()
    assert world.packages() == {"tinynum": "1.0"}


def test_a_kill_after_the_last_step_does_not_keep_an_old_way_back(uv_world: World) -> None:
    world = uv_world
    url = f"{world.index.url}/cpu"
    plan = world.torch_plan(OLD, url)
    world.apply(plan)
    path = world.state / snapshot.NAME
    path.write_text(path.read_text().replace('"complete": true', '"complete": false'))
    assert not world.apply(plan).changed
    world.apply(world.torch_plan(NEW, url))
    world.undo()
    assert world.version() == OLD


def test_asks_before_it_does(uv_world: World) -> None:
    world = uv_world
    world.apply(world.torch_plan(NEW, f"{world.index.url}/cpu"))
    assert world.undo(confirm=lambda question: False).declined
    assert world.version() == NEW and world.pinned()
    assert any(line.strip().startswith("removes ") for line in world.said)


def test_a_damaged_snapshot_is_one_sentence(uv_world: World) -> None:
    world = uv_world
    world.apply(world.torch_plan(NEW, f"{world.index.url}/cpu"))
    (world.state / snapshot.NAME).write_text('{"schema": 1, "plan"')
    with pytest.raises(DoctorError, match=r"snapshot\.json is damaged"):
        world.undo()


def test_a_tree_that_was_linked_is_linked_again(
    uv_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = uv_world
    package = world.folder / "pytorch" / "torch"
    package.mkdir(parents=True)
    (package / "version.py").write_text("__version__ = '2.12.0a0'\n")
    (package / "__init__.py").write_text("from torch.version import __version__\n")
    (package / "_C.cpython-311-x86_64-linux-gnu.so").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(REPO))  # the checkout of the test has no doctor
    link = world.ask("-m", "doctor.environment.local_tree", str(package))
    assert link.returncode == 0, link.stderr
    world.apply(world.torch_plan(NEW, f"{world.index.url}/cpu"))
    assert world.version() == NEW
    world.undo()
    assert world.version() == "2.12.0a0"
    assert world.packages() == {"torch": "2.12.0a0"}


def test_a_greedy_step_is_undone(uv_world: World) -> None:
    """What a step brought in besides what it was for goes, too."""
    world = uv_world
    world.serve("simple", make_wheel("tinynum", "3.0", requires=["helper"], with_metadata=True))
    step = Step("trainer", "Install the rest", (world.install("tinynum"),))
    world.apply(world.plan(step))
    assert world.packages() == {"tinynum": "3.0", "helper": "2.0"}
    world.undo()
    assert world.packages() == {}

"""The torch that apply put in stays: real pip and real uv are asked to replace it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from apply_world import NEW, NEWEST, World, find_uv
from index_server import make_wheel

from doctor.environment import pins
from doctor.environment.place import Place
from doctor.machine.system import System
from doctor.probe.torch.installed import replaced
from doctor.text.toml import tomllib

pytest_plugins = ("apply_fixtures",)


def uv(world: World, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """uv as a user would call it, from the checkout."""
    env = dict(os.environ) | {"UV_DEFAULT_INDEX": f"{world.index.url}/simple"}
    command = [find_uv(), "pip", *words, "--python", world.python]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd or world.checkout, env=env, timeout=60
    )


def with_torch(world: World) -> World:
    world.apply(world.torch_plan(NEW, f"{world.index.url}/cpu"))
    return world


@pytest.mark.slow
def test_pip_leaves_it_in_place(pip_world: World) -> None:
    world = with_torch(pip_world)
    world.serve("simple", make_wheel("greedy", "1", requires=["torch>=2.16"]))
    done = world.ask("-m", "pip", "install", "-U", "torch")
    assert done.returncode == 0, done.stderr
    assert world.version() == NEW
    done = world.ask("-m", "pip", "install", "greedy")
    assert done.returncode != 0 and "constraint" in done.stdout + done.stderr
    assert world.packages() == {"torch": NEW, "helper": "1.0"}
    assert world.ask("-m", "pip", "install", "-U", "helper").returncode == 0
    assert world.packages()["helper"] == "1.0", "what torch asks for exactly stays, too"
    assert world.ask("-m", "pip", "install", "tinynum").returncode == 0, "all else goes on"


def test_uv_leaves_it_in_place_in_the_checkout(uv_world: World) -> None:
    world = with_torch(uv_world)
    index = ("--default-index", f"{world.index.url}/cpu")
    done = uv(world, "install", "-U", "torch", *index)
    assert done.returncode == 0, done.stderr
    assert world.version() == NEW, "although 2.15.0 is there"
    uv(world, "install", "-U", "torch")
    assert world.version() == NEW, "an index that has only others"
    inside = world.checkout / "scripts"
    inside.mkdir()
    assert uv(world, "install", "-U", "torch", *index, cwd=inside).returncode == 0
    assert world.version() == NEW
    assert uv(world, "install", "tinynum", "torch>=2.6").returncode == 0, "all else goes on"
    assert world.packages() == {"torch": NEW, "helper": "1.0", "tinynum": "2.0"}


def test_check_can_tell_when_something_replaced_it(uv_world: World) -> None:
    def told() -> list[str]:
        system = System()
        return list(replaced(system, uv_world.target.environment(system)))

    world = with_torch(uv_world)
    assert told() == []
    done = uv(world, "install", "torch", "-U", cwd=world.folder)
    assert done.returncode == 0, "outside of the checkout uv knows nothing of it"
    assert told() == [f"torch 2.16.0 instead of {NEW}"]
    uv(world, "uninstall", "torch")
    assert told() == [f"no torch {NEW} any more"]


def test_another_plan_replaces_what_is_pinned(world: World) -> None:
    with_torch(world)
    world.apply(world.torch_plan(NEWEST, f"{world.index.url}/cpu"))
    assert world.version() == NEWEST
    assert world.pinned() == {"torch": NEWEST, "helper": "1.0"}


PIP_CONF = {
    "settings": "[global]\n# mine\ntimeout = 7\n\n[list]\nformat = json\n",
    "no line end": "[global]\ntimeout = 7",
    "a section of install": "[install]\nno-compile = true\n[global]\ntimeout = 7\n",
    "spaces and comments": "; first\n[install]   \n\n[global]\ntimeout=7\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PIP_CONF)
def test_a_pip_conf_of_the_user_survives(pip_world: World, name: str) -> None:
    world = pip_world
    path = world.prefix / "pip.conf"
    path.write_text(PIP_CONF[name])
    pins.hold(world.target, {"torch": NEW})
    listed = world.ask("-m", "pip", "config", "list")
    assert "timeout='7'" in listed.stdout, listed.stderr
    assert "install.constraint=" in listed.stdout
    pins.hold(world.target, {"torch": NEWEST})
    assert path.read_text().count(">>> nanochat-doctor") == 1
    pins.lift(world.target)
    assert path.read_text() == PIP_CONF[name]


UV_TOML = {
    "settings": 'native-tls = true\n\n[pip]\nno-build = true\n\n[[index]]\nurl = "http://127.0.0.1:1"\n',
    "empty": "",
}


@pytest.mark.parametrize("name", UV_TOML)
def test_a_uv_toml_of_the_user_survives(uv_world: World, name: str) -> None:
    world = uv_world
    path = world.checkout / "uv.toml"
    path.write_text(UV_TOML[name])
    assert pins.hold(world.target, {"torch": NEW}) == []
    assert uv(world, "list").returncode == 0, "uv reads it"
    pins.lift(world.target)
    assert (path.read_text() if path.exists() else "") == UV_TOML[name]


@pytest.mark.parametrize(
    ("file", "text", "word"),
    [
        ("pip.conf", "[global]\nconstraint = mine.txt\n", "add file:///"),
        ("pip.conf", "no section\n", "cannot be read"),
        ("uv.toml", 'constraint-dependencies = ["numpy<2"]\n', "constraints.txt"),
        ("uv.toml", "torn = [\n", "cannot be read"),
    ],
)
def test_a_file_with_no_place_for_a_pin_is_left_as_it_is(
    uv_world: World, file: str, text: str, word: str
) -> None:
    world = uv_world
    path = (world.prefix if file == "pip.conf" else world.checkout) / file
    path.write_text(text)
    notes = pins.hold(world.target, {"torch": NEW})
    assert len(notes) == 1 and str(path) in notes[0] and word in notes[0]
    assert path.read_text() == text
    assert world.pinned() == {"torch": NEW}, "check still knows"


def test_settings_of_uv_in_pyproject_are_not_hidden(uv_world: World) -> None:
    world = uv_world
    project = world.checkout / "pyproject.toml"
    project.write_text(f"{project.read_text()}\n[tool.uv]\nnative-tls = true\n")
    (note,) = pins.hold(world.target, {"torch": NEW})
    assert "would hide [tool.uv]" in note
    assert not (world.checkout / "uv.toml").exists()


BYTES = {
    "windows": b"[global]\r\ntimeout = 7\r\n",
    "windows, a section of install, no line end": b"[global]\r\ntimeout = 7\r\n[install]",
    "Latin-1": b"[global]\n# M\xfcller\ntimeout = 7\n",
    "Latin-1 without a line end": b"[global]\n# M\xfcller",
    "a byte order mark": b"\xef\xbb\xbf[global]\ntimeout = 7\n",
    "UTF-16": "[global]\ntimeout = 7\n".encode("utf-16"),
    "mixed line ends": b"[global]\r\na = 1\n\n\r\n[install]\nb = 2\r\n",
    "empty": b"",
    "blank lines": b"\n\n\r\n",
    "a lone carriage return": b"[global]\ra = 1\r",
    "a zero byte": b"[global]\n# \0\n",
}
"""What a user's pip.conf may be; uv.toml is held the same way."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An environment that nothing is installed into."""
    checkout = tmp_path / "check\nout 'ü\" \udcff"
    prefix = checkout / ".venv"
    prefix.mkdir(parents=True)
    (checkout / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    return Place(str(prefix / "bin" / "python"), prefix, prefix / "nanochat-doctor", checkout)


@pytest.mark.parametrize("name", BYTES)
@pytest.mark.parametrize("file", [".venv/pip.conf", "uv.toml"])
def test_every_byte_of_a_user_comes_back(place: Place, file: str, name: str) -> None:
    path = place.checkout / file
    path.write_bytes(BYTES[name])
    path.chmod(0o640)
    pins.hold(place, {"torch": NEW})
    pins.hold(place, {"torch": NEWEST})
    pins.lift(place)
    assert path.read_bytes() == BYTES[name]
    assert path.stat().st_mode & 0o777 == 0o640
    assert not [p for p in place.prefix.iterdir() if p.name.startswith(".")]


def test_what_the_user_writes_beside_a_pin_stays(place: Place) -> None:
    path = place.prefix / "pip.conf"
    pins.hold(place, {"torch": NEW})
    path.write_bytes(b"[global]\r\ntimeout = 7\r\n" + path.read_bytes() + b"no-deps = true")
    pins.hold(place, {"torch": NEWEST})
    pins.lift(place)
    assert path.read_bytes() == b"[global]\r\ntimeout = 7\r\nno-deps = true"


def test_what_we_made_goes(place: Place) -> None:
    before = set(place.checkout.rglob("*"))
    assert pins.hold(place, {"torch": NEW}) == []
    assert (place.checkout / "uv.toml").exists() and (place.prefix / "pip.conf").exists()
    tomllib.loads((place.checkout / "uv.toml").read_text())
    pins.lift(place)
    assert set(place.checkout.rglob("*")) - before == {place.state}


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_file_that_serves_others_is_not_touched(place: Place, link: str) -> None:
    shared = place.checkout / "shared.conf"
    shared.write_bytes(b"[global]\ntimeout = 7\n")
    path = place.prefix / "pip.conf"
    getattr(path, link)(shared)
    (note,) = pins.hold(place, {"torch": NEW})
    assert "is left as it is" in note
    pins.lift(place)
    assert path.is_symlink() == (link == "symlink_to") and path.samefile(shared)
    assert shared.read_bytes() == b"[global]\ntimeout = 7\n"


def test_a_pipe_in_place_of_settings_is_not_waited_for(place: Place) -> None:
    os.mkfifo(place.prefix / "pip.conf")
    (note,) = pins.hold(place, {"torch": NEW})
    assert "is no plain file" in note

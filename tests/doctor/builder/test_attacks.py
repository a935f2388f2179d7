"""Notes, lists of packages and state that somebody else has written or damaged: a sentence, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hostile import KINDS, PLACES, read_or_told, same

from doctor.compile.ninja import ninja
from doctor.compile.ninja.weights import Weights
from doctor.compile.source.fingerprint import Fingerprint, read_state
from doctor.compile.source.read_tree import read_tree
from doctor.compile.torch.product import cached
from doctor.environment import integrity, pins, requirements
from doctor.environment.place import Place, target
from doctor.errors import DoctorError, Unknown
from doctor.install import ledger, proven, snapshot
from doctor.install.journal import BEGIN, Journal
from doctor.knowledge.tables import Tables
from doctor.machine.pyenv import normalised
from doctor.machine.system import System
from doctor.probe.torch import packages
from doctor.work import files
from doctor.work.programs import LETTERS, Log, ask
from doctor.work.run import run

REPO = Path(__file__).parents[3]
Reader = Callable[[Path], object]

# --- notes of apply

NOTES: Mapping[str, Reader] = {
    "journal.jsonl": lambda state: Journal(state / "journal.jsonl").unfinished(),
    "snapshot.json": snapshot.read,
    "origins.json": ledger.read,
    "proven.json": proven.last_proven,
    "constraints.txt": lambda state: pins.read(state.parent, state),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NOTES)
def test_notes_that_are_none_of_ours(tmp_path: Path, name: str, kind: str) -> None:
    KINDS[kind](tmp_path / name)
    read_or_told(lambda: NOTES[name](tmp_path))
    kept = [path for path in tmp_path.iterdir() if same(path, kind, tmp_path / "other")]
    assert kept or kind == "nothing", "what was there is lost"


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("name", NOTES)
def test_a_note_that_cannot_be_read_is_named(tmp_path: Path, name: str, kind: str) -> None:
    KINDS[kind](tmp_path / name)
    with pytest.raises(DoctorError, match=rf"{name} cannot be read \(.*\); move it away"):
        NOTES[name](tmp_path)


ODD = [None, True, 7, -1.5, "", "x", [], ["x"], [[]], [{}], {}, {"x": {}}, {"version": []}]


@pytest.mark.parametrize("key", ["time", "event", "step", "plan", "details", "more"])
@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_any_value_in_a_line_of_the_journal(tmp_path: Path, key: str, odd: Any) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).add(BEGIN, "torch", "p", damaged=["a"], unowned=None)
    line = json.loads(path.read_text().splitlines()[1]) | {key: odd}
    path.write_text('{"schema": 1}\n' + json.dumps(line) + "\n")
    begun = Journal(path).unfinished()
    assert begun is None or (isinstance(begun.step, str) and isinstance(begun.details, dict))


@pytest.mark.parametrize("key", ["damaged", "unowned"])
@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_any_list_of_names_in_the_journal(tmp_path: Path, key: str, odd: Any) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).add(BEGIN, "torch", "p", **{key: odd})
    begun = Journal(path).unfinished()
    assert begun is None or set(begun.details.get(key) or ()) <= {"x"}


PACKAGE = {"name": "x", "version": "1", "direct": None, "index": None, "tree": None}


@pytest.mark.parametrize("key", ["schema", "plan", "python", "time", "pinned", "complete", "packages", "name",
                                 "version", "direct", "index", "tree"])  # fmt: skip
@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_any_value_in_a_snapshot(tmp_path: Path, key: str, odd: Any) -> None:
    snapshot.Snapshot("p", "py", "t", {"x": snapshot.Package("x", "1")}, {}).save(tmp_path)
    data = json.loads((tmp_path / snapshot.NAME).read_text())
    (data["packages"][0] if key in PACKAGE else data)[key] = odd
    (tmp_path / snapshot.NAME).write_text(json.dumps(data))

    def read() -> None:
        found = snapshot.read(tmp_path)
        assert found is not None
        for package in found.packages.values():
            assert all(isinstance(word, str) for word in package.requirement)

    read_or_told(read)


# --- an environment's own lists


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An environment that has torch and two others, all of it files."""
    minor = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    site = tmp_path / "venv" / "lib" / minor / "site-packages"
    site.mkdir(parents=True)
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    (tmp_path / "venv" / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).parent}\n")
    for name, needs in {
        "torch": ["triton==3.5", "cuda-toolkit[cublas,cudart]==13.0.2", "numpy", "sympy>=1"],
        "cuda_toolkit": [
            "nvidia-cublas==13.1.*; extra == 'cublas'",
            "nvidia-cuda-runtime==13.0; sys_platform != 'nowhere' and extra == 'cudart'",
            "nvidia-cufft==12; extra == 'cufft'",
            "nvidia-nvtx>=13; extra == 'cublas'",
        ],
    }.items():
        _package(site, name, "13.0.2" if name == "cuda_toolkit" else "2.10.0", needs)
    for name in (
        "triton",
        "numpy",
        "nvidia_cublas",
        "nvidia_cuda_runtime",
        "nvidia_cufft",
        "nvidia_nvtx",
    ):
        _package(site, name, "1.0", [])
    return target(str(python), REPO, tmp_path / "state")


def _package(site: Path, name: str, version: str, needs: list[str]) -> Path:
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    asked = "".join(f"Requires-Dist: {line}\n" for line in needs)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{asked}"
    )
    (info / "INSTALLER").write_text("pip\n")
    (info / "RECORD").write_text(f"{info.name}/METADATA,,\n{info.name}/RECORD,,\n")
    return info


def test_what_torch_asks_for_through_extras_is_pinned(place: Place) -> None:
    assert pins.wanted(place) == {
        "torch": "2.10.0", "triton": "1.0", "cuda-toolkit": "13.0.2", "nvidia-cublas": "1.0",
        "nvidia-cuda-runtime": "1.0",
    }  # fmt: skip


def test_extras_in_a_circle_end(place: Place) -> None:
    text = "Requires-Dist: cuda-toolkit[cublas]==13.0.2; extra == 'cublas'\n"
    (place.site / "cuda_toolkit-13.0.2.dist-info" / "METADATA").write_text(text)
    assert set(pins.wanted(place)) == {"torch", "triton", "cuda-toolkit"}
    assert "cuda-toolkit" in ledger.needed(place, ["torch"])


def look(place: Place) -> None:
    """All that apply and check read of an environment."""
    env = place.environment()
    integrity.damaged(place.site)
    integrity.unowned(place.site)
    integrity.leftovers(place.site, (), ())
    requirements.missing(env, ["torch>=2", "numpy", "triton", "cuda-toolkit"])
    pins.wanted(place)
    ledger.needed(place, ["torch"])
    with contextlib.suppress(Unknown):
        packages.read(System(), env, "x86_64")
    snapshot.take(place, "plan")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["METADATA", "RECORD", "INSTALLER", "direct_url.json"])
@pytest.mark.parametrize("package", ["torch-2.10.0", "cuda_toolkit-13.0.2"])
def test_metadata_that_no_installer_wrote(place: Place, package: str, name: str, kind: str) -> None:
    path = place.site / f"{package}.dist-info" / name
    path.unlink(missing_ok=True)
    KINDS[kind](path)
    read_or_told(lambda: look(place))
    assert same(path, kind, path.with_name("other"))


@pytest.mark.parametrize("kind", KINDS)
def test_packages_of_the_older_kind(place: Place, kind: str) -> None:
    info = place.site / "old.egg-info"
    info.mkdir()
    KINDS[kind](info / "top_level.txt")
    read_or_told(lambda: look(place))


REQUIREMENTS = {
    "spaces": "triton" + " " * 1500 + "))",
    "more spaces": "triton" + " " * 2_000_000 + "))",
    "letters": "triton" + "a" * 2_000_000 + ")x",
    "parentheses": "triton; " + "(" * 1900,
    "closed parentheses": "triton==1; " + "(" * 900 + "python_version > '3'" + ")" * 900,
    "digits": f"triton=={'9' * 1900}",
    "more digits": f"triton=={'9' * 5000}",
    "digits in a marker": f"triton==1; python_version < '{'9' * 1900}'",
    "no comparison": "triton==1; python_version ~= 'x'",
    "no variable": "triton==1; nonsense == 'x'",
    "no marker": "triton==1; ;;",
    "itself": "torch[a,b,c]==2.10.0; extra == 'a'",
    "escapes": "triton\x1b]0;x\x07==1",
    "address": "triton @ file:///dev/zero",
    "name": "../../etc==1",
}


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_requirements_that_no_package_has(place: Place, name: str) -> None:
    path = place.site / "torch-2.10.0.dist-info" / "METADATA"
    path.write_text(f"Requires-Dist: {REQUIREMENTS[name]}\nRequires-Dist: numpy==1.0\n")
    look(place)
    assert pins.wanted(place)["numpy"] == "1.0"


RECORDS = {
    "libraries": "x" + ".so" * 700_000,
    "folders": "x" + "/a.so" * 400_000,
    "sizes": f"triton/a.so,sha256=x,{DIGITS}\n" if (DIGITS := "9" * 5000) else "",
    "quotes": '"' * 100_001,
    "commas": "," * 300_000,
    "lines": "\n" * 200_000,
    "other digits": "triton/a.so,sha256=x,٣\n",
}


@pytest.mark.parametrize("name", RECORDS)
def test_records_that_no_installer_writes(place: Place, name: str) -> None:
    for package in ("triton-1.0", "torch-2.10.0"):
        (place.site / f"{package}.dist-info" / "RECORD").write_text(RECORDS[name])
    look(place)


VERSIONS = [
    "9" * 200,
    "x",
    "1.0\x1b[2J",
    "1\n",
    "١",
    "1.0+" + "a" * 200,
    "1;",
    '1"',
    "..",
    " ",
    "1-2-3",
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("package", ["torch", "triton", "numpy"])
def test_folders_with_odd_versions(place: Place, package: str, version: str) -> None:
    (found,) = place.site.glob(f"{package}-*.dist-info")
    found.rename(place.site / f"{package}-{version}.dist-info")
    look(place)
    for name, held in pins.wanted(place).items():
        assert f"{name}=={held}".isprintable() and not set(held) & set("\"' ;")
        assert normalised(name) == name


def test_nothing_behind_a_link_is_removed_or_moved(place: Place, tmp_path: Path) -> None:
    outside = tmp_path / "data"
    outside.mkdir()
    (outside / "work").write_text("mine")
    (place.site / "linked").symlink_to(outside)
    info = _package(place.site, "broken", "1.0", [])
    (info / "RECORD").write_text("linked/work,sha256=x,4\nlinked/gone,,1\nbroken/gone.py,,1\n")
    found = integrity.leftovers(place.site, (), integrity.unowned(place.site))
    assert info.name in found.broken
    integrity.set_aside(place.site, found, tmp_path / "aside")
    assert (outside / "work").read_text() == "mine" and not info.exists()


# --- state of builds

STATES: Mapping[str, Reader] = {
    ".nanochat-doctor.json": read_state,
    "weights.json": lambda folder: Weights.load(folder / "weights.json", ()),
    ".ninja_log": ninja.read_log,
    "CMakeCache.txt": ninja.program,
    f"{Fingerprint({}).key}/receipt.json": lambda folder: cached(folder, Fingerprint({})),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STATES)
def test_state_that_no_build_left(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    KINDS[kind](path)
    read_or_told(lambda: STATES[name](tmp_path))
    assert same(path, kind, path.with_name("other"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["version.txt", "pyproject.toml", "CMakeLists.txt", "setup.py", ".gitmodules"]
)
def test_trees_that_nobody_checked_out(tmp_path: Path, name: str, kind: str) -> None:
    tree = tmp_path / "pytorch"
    (tree / "torch").mkdir(parents=True)
    for file, text in {
        "version.txt": "2.10.0a0\n", "pyproject.toml": "", "CMakeLists.txt": "project(Torch)\n", "setup.py": "",
    }.items():  # fmt: skip
        (tree / file).write_text(text)
    (tree / name).unlink(missing_ok=True)
    KINDS[kind](tree / name)
    read_or_told(lambda: read_tree(tree, Tables()))


# --- programs that do not end what they say


def test_a_line_without_end_is_passed_on_in_pieces(tmp_path: Path) -> None:
    heard: list[int] = []
    code = "import sys\nfor _ in range(64): sys.stdout.write('x' * (1 << 16))"
    ended = Log(tmp_path / "log").run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ,
        heard=lambda line: heard.append(len(line)),
    )
    assert not ended.failed and sum(heard) == 4 << 20 and max(heard) < 4 << 20
    assert max(map(len, ended.lines)) == LETTERS


def test_a_build_may_say_a_line_without_end(tmp_path: Path) -> None:
    heard: list[int] = []
    code = "import sys\nsys.stdout.write('x' * (4 << 20))\nprint()\nprint('last', end='')"
    status = run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ, log=tmp_path / "log", mark="test",
        heard=lambda line: heard.append(len(line)),
    )  # fmt: skip
    assert status == 0 and sum(heard) == (4 << 20) + 4 and max(heard) <= 1 << 17


ANSWERS = [
    "yes",
    "cat /dev/zero",
    "echo '[[[['",
    "printf '\\377'",
    "yes '[' | head -c 400000 | tr -d '\\n'",
]


@pytest.mark.parametrize("said", ANSWERS)
def test_an_answer_that_is_none(said: str) -> None:
    with pytest.raises(Unknown) as told:
        ask(["/bin/sh", "-c", said], env=os.environ, seconds=20)
    assert len(str(told.value)) < 5000


def test_the_limits_are_wide_enough(place: Place) -> None:
    text = "".join(
        f"torch/include/header_{number}.h,sha256={'x' * 43},1234\n" for number in range(50_000)
    )
    (place.site / "torch-2.10.0.dist-info" / "RECORD").write_text(text)
    assert "lacks torch/include/header_0.h" in str(
        integrity.damage(place.site / "torch-2.10.0.dist-info")
    )
    assert 10 * len(text) < files.LIMIT

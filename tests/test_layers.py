"""Imports point one way: rooms of doctor/ by a table, no circle of files or folders, who may use what from outside."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import REPO

BELOW = {"errors": "", "fact": "errors", "facts": "errors fact", "checkout": "errors"}
"""Files of `doctor/` itself, and what they may import; every room may import them."""

ROOMS = {
    "text": "",
    "machine": "text",
    "knowledge": "text",
    "probe": "text machine knowledge",
    "index": "text machine knowledge probe findings",
    "findings": "text knowledge",
    "planner": "text knowledge findings",
    "launch": "text planner",
    "work": "text machine knowledge probe",
    "environment": "text machine knowledge probe planner work",
    "compile": "text machine knowledge probe findings planner work environment",
    "install": "text machine knowledge probe findings planner work environment compile",
    "cli": "text machine knowledge probe index findings planner launch work environment compile install",
}
"""Room -> rooms that it may import. Neither what is said of a machine nor what is planned for it looks at one."""

OUTSIDE = {
    "subprocess": "machine.system index.supply_places launch.speedrun work compile install cli.selftest",
    "multiprocessing": "",
    "requests": "probe.network index.fetch compile.rustbpe.rustup",
    "pynvml": "probe.nvidia.nvml",
    "jinja2": "launch.render",
    "click": "cli text.paper",
    "torch": "probe.payload",
    "numpy": "",
    "nanochat": "planner.launch work.lock install.preview",
}
"""Package that is not ours -> files and rooms that may import it. torch never enters our process."""

WITHOUT_TORCH = "config errors files lock schedule sizing"
"""Parts of the trainer that the doctor may import, and that import neither torch nor numpy."""

LEAVES = {
    "machine.reader": "",
    "machine.elf": "machine.reader",
    "machine.fatbin": "machine.elf",
    "knowledge.versions": "",
}
"""Files that may import no others of ours."""

LOOSE = 12
"""Files in a folder at the most."""


@dataclass(frozen=True)
class House:
    """The packages of a source tree."""

    root: Path

    def modules(self, package: str) -> dict[str, Path]:
        """Name of a module -> its file."""
        found = {}
        for path in sorted((self.root / package).rglob("*.py")):
            parts = path.relative_to(self.root).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
        return found

    def imports(self, package: str) -> dict[str, set[str]]:
        """Module -> all that it imports, wherever in it."""
        known = {**self.modules("doctor"), **self.modules("nanochat")}
        return {name: imported(path, known) for name, path in self.modules(package).items()}

    def folders(self) -> dict[str, str]:
        """Module -> its folder; files of the top one stand for themselves."""
        found = {}
        for name, path in self.modules("doctor").items():
            inside = name if path.name == "__init__.py" else name.rpartition(".")[0]
            found[name] = name if inside == "doctor" else inside
        return found


def imported(path: Path, known: Mapping[str, Path]) -> set[str]:
    """Names of modules that a file imports; `from a import b` is a.b where that is one of ours."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise AssertionError(f"{path} imports relatively; name the whole module.")
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in known else str(node.module) for name in full}
    return names


def room(module: str) -> str:
    return (module + "..").split(".")[1]


def within(module: str, places: str) -> bool:
    """Whether a module is one of some files, or in one of some rooms."""
    return any(f"{module}.".startswith(f"doctor.{place}.") for place in places.split())


def faults(house: House) -> Iterator[str]:
    """All that is wrong with a tree, a sentence each."""
    arrows = house.imports("doctor")
    for module, names in arrows.items():
        for name in sorted(names):
            if name.split(".")[0] == "doctor":
                yield from _against_the_table(module, name)
            else:
                yield from _from_outside(module, name)
    ours = {m: {n for n in names if n in arrows and n != m} for m, names in arrows.items()}
    yield from (f"{circle} is a circle of files." for circle in circles(ours))
    folder, folders = house.folders(), dict[str, set[str]]()
    for module, names in ours.items():
        here = folder[module]
        folders.setdefault(here, set()).update({folder[n] for n in names} - {here})
    yield from (f"{circle} is a circle of folders." for circle in circles(folders))
    yield from _rooms_too_full(house)
    yield from _trainer(house)


def _against_the_table(module: str, name: str) -> Iterator[str]:
    here, there = room(module), room(name)
    if module == "doctor.__main__" or here == there or not there:
        return
    if here in BELOW:
        may = BELOW[here]
    elif here in ROOMS:
        may = " ".join([*ROOMS[here].split(), *BELOW])
    else:
        yield f"{module} is in no room of the table in {Path(__file__).name}; put it into one, or add its row."
        return
    if there not in may.split():
        allowed = f"only {may}" if may else "nothing of ours"
        yield f"{module} imports {name}, but {here} may import {allowed}."


def _from_outside(module: str, name: str) -> Iterator[str]:
    package, *rest = name.split(".")
    if package in OUTSIDE and not within(module, OUTSIDE[package]):
        yield f"{module} imports {name}, which is for {OUTSIDE[package] or 'nobody'} alone."
    elif package == "nanochat" and (rest or [""])[0] not in WITHOUT_TORCH.split():
        yield f"{module} imports {name}, but of the trainer only {WITHOUT_TORCH} do without torch."


def _rooms_too_full(house: House) -> Iterator[str]:
    files: dict[Path, int] = {}
    for path in house.modules("doctor").values():
        files[path.parent] = files.get(path.parent, 0) + 1
    for folder, count in files.items():
        place = folder.relative_to(house.root)
        if count > LOOSE:
            yield f"{place}/ has {count} loose files, and {LOOSE} are the most; give some a room of their own."
        if count == 2 and folder != house.root / "doctor":
            yield f"{place}/ is a folder for one file; put that into the folder above."
        first = folder / "__init__.py"
        if first.exists() and imported(first, {}):
            yield f"{place}/__init__.py imports something, so that whoever needs one file of it loads others."


def _trainer(house: House) -> Iterator[str]:
    arrows = house.imports("nanochat")
    for module, names in arrows.items():
        for name in sorted(n for n in names if n.split(".")[0] == "doctor"):
            yield f"{module} imports {name}, but the trainer runs where there is no doctor."
    todo = [f"nanochat.{name}" for name in WITHOUT_TORCH.split()]
    seen = set(todo)
    while todo:
        module = todo.pop()
        for name in sorted(arrows.get(module, ())):
            if name.split(".")[0] in ("torch", "numpy"):
                yield f"{module} imports {name}, but the doctor reckons with it, and has none."
            elif name in arrows and name not in seen:
                seen.add(name)
                todo.append(name)


def circles(arrows: Mapping[str, set[str]]) -> Iterator[str]:
    """One circle of each knot, as `a → b → a`."""
    done: set[str] = set()
    for start in sorted(arrows):
        path = _way_back(start, arrows, done)
        if path:
            done.update(path)
            yield " → ".join([*path, start])


def _way_back(start: str, arrows: Mapping[str, set[str]], done: set[str]) -> list[str]:
    """The shortest way from a place to itself; empty where there is none."""
    ways, seen = [[start]], {start}
    for way in ways:
        for name in sorted(arrows.get(way[-1], set()) - done):
            if name == start:
                return way
            if name not in seen:
                seen.add(name)
                ways.append([*way, name])
    return []


# --- ours -------------------------------------------------------------------------------------


def test_imports_point_one_way() -> None:
    assert list(faults(House(REPO))) == []


def test_every_room_is_in_the_table() -> None:
    rooms = {path.name for path in (REPO / "doctor").iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(ROOMS)


def test_leaves_import_nothing_else() -> None:
    arrows = House(REPO).imports("doctor")
    for module, may in LEAVES.items():
        ours = {n for n in arrows[f"doctor.{module}"] if n.split(".")[0] == "doctor"}
        assert ours <= {f"doctor.{name}" for name in may.split()}


def test_nothing_else_opens_the_door() -> None:
    for path in (REPO / "doctor").rglob("*.py"):
        if path.name not in ("system.py", "selftest.py"):
            calls = re.findall(
                r"\bos\.(?:system|popen|exec\w+|spawn\w+|posix_spawn|fork)\(", path.read_text()
            )
            assert not calls, path


# --- a small house ----------------------------------------------------------------------------

SOUND = {
    "doctor/__main__.py": "from doctor.cli.main import main",
    "doctor/errors.py": "",
    "doctor/facts.py": "from doctor import errors",
    "doctor/text/words.py": "from doctor.errors import Unknown",
    "doctor/text/pages.py": "from doctor.text import words",
    "doctor/planner/decide.py": "from doctor.text.words import said\nfrom doctor.planner.launch import sizes",
    "doctor/planner/steps.py": "from doctor.planner import decide",
    "doctor/planner/launch/sizes.py": "def size():\n    from nanochat import sizing",
    "doctor/planner/launch/rates.py": "import math",
    "doctor/cli/main.py": "import doctor.planner.steps",
    "doctor/cli/help.py": "import click",
    "nanochat/sizing.py": "import nanochat.config",
    "nanochat/config.py": "import json",
    "nanochat/model.py": "import torch",
}


def house(folder: Path, files: Mapping[str, str]) -> House:
    for name, text in {**SOUND, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for inside in {path.parent for path in folder.rglob("*.py")}:
        (inside / "__init__.py").touch()
    return House(folder)


def test_a_sound_house(tmp_path: Path) -> None:
    assert list(faults(house(tmp_path, {}))) == []


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"doctor/text/words.py": "def f():\n    from doctor.planner import steps"},
         "doctor.text.words imports doctor.planner.steps, but text may import only errors fact facts checkout."),
        ({"doctor/errors.py": "import doctor.text.words"},
         "doctor.errors imports doctor.text.words, but errors may import nothing of ours."),
        ({"doctor/text/words.py": "import doctor.text.pages"},
         "doctor.text.pages → doctor.text.words → doctor.text.pages is a circle of files."),
        ({"doctor/planner/launch/rates.py": "if True:\n    from doctor.planner.steps import step"},
         "doctor.planner → doctor.planner.launch → doctor.planner is a circle of folders."),
        ({"doctor/attic/box.py": "import doctor.errors", "doctor/attic/chest.py": ""},
         "doctor.attic.box is in no room of the table in test_layers.py; put it into one, or add its row."),
        ({"doctor/planner/steps.py": "import subprocess"},
         "doctor.planner.steps imports subprocess, which is for machine.system index.supply_places "
         "launch.speedrun work compile install cli.selftest alone."),
        ({"doctor/cli/help.py": "import torch.cuda"},
         "doctor.cli.help imports torch.cuda, which is for probe.payload alone."),
        ({"doctor/planner/launch/sizes.py": "from nanochat.model import Model"},
         "doctor.planner.launch.sizes imports nanochat.model, but of the trainer only config errors files "
         "lock schedule sizing do without torch."),
        ({"nanochat/model.py": "from doctor.facts import Facts"},
         "nanochat.model imports doctor.facts, but the trainer runs where there is no doctor."),
        ({"nanochat/config.py": "from nanochat.model import Model"},
         "nanochat.model imports torch, but the doctor reckons with it, and has none."),
        ({f"doctor/cli/page{number}.py": "" for number in range(10)},
         "doctor/cli/ has 13 loose files, and 12 are the most; give some a room of their own."),
        ({"doctor/text/near/one.py": ""},
         "doctor/text/near/ is a folder for one file; put that into the folder above."),
        ({"doctor/text/__init__.py": "from doctor.text.words import said"},
         "doctor/text/__init__.py imports something, so that whoever needs one file of it loads others."),
    ],
)  # fmt: skip
def test_a_fault_is_told(tmp_path: Path, files: Mapping[str, str], said: str) -> None:
    assert said in list(faults(house(tmp_path, files)))


def test_a_relative_import_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="imports relatively"):
        list(faults(house(tmp_path, {"doctor/text/words.py": "from . import pages"})))

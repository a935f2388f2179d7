"""What was installed before the first change: the list that undo brings back."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from doctor.environment import pins
from doctor.environment.local_tree import PATH_FILE
from doctor.environment.place import Place
from doctor.errors import DoctorError
from doctor.install import ledger
from doctor.knowledge.tables import Tables
from doctor.machine.look import without_credentials
from doctor.machine.pyenv import Distribution
from doctor.text.visible import visible
from doctor.work import files

SCHEMA = 1
NAME = "snapshot.json"
REASON = 80
"""Letters of what is wrong with a damaged one."""

INDEXED = re.compile(r"cpu|cu\d+|xpu|rocm[\d.]+")
"""Local tags that are names of PyTorch's indexes, too."""


@dataclass(frozen=True)
class Package:
    """An installed distribution.

    Attributes:
        direct: what its direct_url.json says, for one that came from no index (PEP 610).
        index: the index it came from, where we put it in ourselves.
        tree: package folder of the source tree that it stands for (`doctor.environment.local_tree`).
    """

    name: str
    version: str
    direct: Mapping[str, Any] | None = None
    index: str | None = None
    tree: str | None = None

    @property
    def requirement(self) -> tuple[str, ...]:
        """What to tell uv or pip to get exactly this again."""
        if self.direct is None:
            return (f"{self.name}=={self.version}",)
        url = str(self.direct.get("url", ""))
        vcs = self.direct.get("vcs_info")
        if isinstance(vcs, dict):
            url = f"{vcs.get('vcs', 'git')}+{url}@{vcs.get('commit_id', '')}"
        folder = self.direct.get("dir_info")
        if isinstance(folder, dict) and folder.get("editable"):
            return ("--editable", unquote(urlsplit(url).path))
        inside = self.direct.get("subdirectory")
        return (f"{self.name} @ {url}" + (f"#subdirectory={inside}" if inside else ""),)


@dataclass(frozen=True)
class Snapshot:
    """The packages of an environment at a time, and the versions that were held in place.

    Attributes:
        plan: fingerprint of the plan before which it was taken.
        complete: whether that plan was carried out to its end since, and no undo has begun.
    """

    plan: str
    python: str
    time: str
    packages: Mapping[str, Package]
    pinned: Mapping[str, str]
    complete: bool = False

    def save(self, state: Path) -> None:
        """Write it.

        Raises:
            DoctorError: it cannot be written.
        """
        data = {
            "schema": SCHEMA,
            "plan": self.plan,
            "python": self.python,
            "time": self.time,
            "pinned": dict(self.pinned),
            "complete": self.complete,
            "packages": [vars(package) for package in self.packages.values()],
        }
        files.write(state / NAME, json.dumps(data, indent=1))


@dataclass(frozen=True)
class Difference:
    """What separates an environment from a snapshot."""

    added: tuple[str, ...]
    """Names of packages that were not there, and that our commands put in."""
    lost: tuple[Package, ...]
    """Packages that are gone, or of another version now."""
    kept: tuple[str, ...] = ()
    """What differs, too, and stays: somebody else has put it in since, or needs it."""

    def __bool__(self) -> bool:
        return bool(self.added or self.lost)


def take(target: Place, plan: str) -> Snapshot:
    """The packages that are installed now."""
    origins = ledger.read(target.state)
    packages = {name: _package(item, origins) for name, item in target.installed().items()}
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Snapshot(plan, target.python, now, packages, pins.read(target.prefix, target.state))


def read(state: Path) -> Snapshot | None:
    """The snapshot of a state folder; None where there is none.

    Raises:
        DoctorError: it is damaged, or of another schema.
    """
    path = state / NAME
    if not path.exists():
        return None
    data = files.read_object(path)
    try:
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']}")
        packages = [_checked(Package(**entry)) for entry in data["packages"]]
        return Snapshot(
            plan=str(data["plan"]),
            python=str(data["python"]),
            time=str(data["time"]),
            packages={package.name: package for package in packages},
            pinned=_texts(data["pinned"]),
            complete=bool(data["complete"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DoctorError(
            f"{path} is damaged ({visible(repr(error)[:REASON])}), so that what was installed before is not known; "
            "remove the file to go on without a way back."
        ) from error


def _checked(package: Package) -> Package:
    """A package as we write it.

    Raises:
        TypeError: it is none.
    """
    texts = (package.name, package.version, package.index or "", package.tree or "")
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a name that is no text")
    if not isinstance(package.direct, dict | None):
        raise TypeError("an origin that is no object")
    return package


def _texts(pairs: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in dict(pairs).items()}


def forget(state: Path) -> None:
    """Put the snapshot aside: there is nothing to bring back any more."""
    (state / NAME).replace(state / f"{NAME}.undone")


def difference(snapshot: Snapshot, target: Place) -> Difference:
    """What undo has to do. What somebody else has installed since stays, but for torch and what is held with it."""
    installed, entries = target.installed(), ledger.read(target.state)
    now = {name: _package(item, {}) for name, item in installed.items()}
    held = {*pins.PINNED, *snapshot.pinned}
    ours = {name for name, item in installed.items() if ledger.is_ours(entries, item)}
    new = [name for name in now if name not in snapshot.packages]
    changed = [
        package
        for name, package in snapshot.packages.items()
        if name not in now
        or (now[name].version, now[name].direct) != (package.version, package.direct)
    ]
    theirs = [name for name in new if name not in ours]
    theirs += [p.name for p in changed if p.name in now and p.name not in ours | held]
    staying = {*theirs, *(ledger.needed(target, theirs) - held)} if theirs else set()
    return Difference(
        tuple(name for name in new if name not in staying),
        tuple(package for package in changed if package.name not in theirs),
        tuple(name for name in (*new, *theirs) if name in staying),
    )


def _package(item: Distribution, origins: Mapping[str, Any]) -> Package:
    direct = files.read_object(Path(item.folder) / "direct_url.json") or None
    if direct and isinstance(direct.get("url"), str):
        direct["url"] = without_credentials(direct["url"])  # pip and uv have theirs elsewhere
    origin = origins.get(item.name)
    index = None
    if isinstance(origin, dict) and origin.get("version") == item.version:
        index = origin.get("index")
        index = index if isinstance(index, str) else None
    elif direct is None:
        index = _index_of_tag(item)
    return Package(item.name, item.version, direct, index, _tree(item))


def _tree(item: Distribution) -> str | None:
    """The tree that a torch stands for which was linked into the environment."""
    if (files.read(Path(item.folder) / "INSTALLER") or "").strip() != "nanochat-doctor":
        return None
    above = (files.read(Path(item.site) / PATH_FILE) or "").strip()
    return f"{above}/torch" if above else None


def _index_of_tag(item: Distribution) -> str | None:
    """PyTorch's index for a version such as `2.9.1+cu128`, which only that one has."""
    tag = item.version.partition("+")[2]
    return Tables().pytorch_index(tag) if INDEXED.fullmatch(tag) else None

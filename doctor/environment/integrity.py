"""Half-installed packages: which there are, and how what a kill left behind is set aside.

Whoever installs writes a list of files, RECORD, into the metadata folder of a package. Files that it
names and that are not there, or a folder that no list names, are what an interrupted uv or pip leaves;
or somebody has put them there. So only what is as a list has it is deleted, and all else is moved.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from doctor.errors import Unknown
from doctor.text.bounded import DIGITS, read_bounded
from doctor.work.files import LIMIT, cannot_write

OTHER_METADATA = (".egg-info", ".egg-link", ".egg")
SHARED = ("__pycache__", "easy-install.pth")


def damage(info: Path) -> str | None:
    """What is wrong with the package of a metadata folder; None where it is whole.

    Files that someone has edited are no damage; a library of another size is.
    """
    for name in ("METADATA", "INSTALLER", "RECORD"):
        if not _size(info / name):
            return f"has no {name}"
    missing = [path for path, size in _recorded(info) if not _whole(info.parent, path, size)]
    if not missing:
        return None
    more = f" and {len(missing) - 1} more files" if len(missing) > 1 else ""
    return f"lacks {missing[0]}{more}"


def damaged(site: Path) -> dict[str, str]:
    """Metadata folders of packages that are not whole -> what is wrong."""
    found = ((info.name, damage(info)) for info in _infos(site))
    return {name: reason for name, reason in found if reason is not None}


def unowned(site: Path, but: Collection[str] = ()) -> set[str]:
    """Names in site-packages that belong to no installed package.

    Args:
        but: metadata folders whose lists do not count.
    """
    owners = [info for info in _infos(site) if info.name not in but]
    owned = {path.split("/", 1)[0] for info in owners for path, _ in _recorded(info)}
    owned |= {info.name for info in _infos(site)} | set(_of_eggs(site))
    try:
        names = os.listdir(site)
    except OSError:
        return set()
    return {
        name
        for name in names
        if name not in owned and name not in SHARED and not name.endswith(OTHER_METADATA)
    }


def _of_eggs(site: Path) -> Iterator[str]:
    """What packages of the older kind own, whose metadata name modules."""
    for info in site.glob("*.egg-info"):
        for name in _text(info / "top_level.txt").split():
            yield from (name, f"{name}.py")


@dataclass(frozen=True)
class Leftovers:
    """What was not so before: metadata folders of packages that are not whole, and names that nobody owns."""

    broken: tuple[str, ...]
    unowned: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """All of them."""
        return sorted({*self.broken, *self.unowned})


def leftovers(
    site: Path, known_damage: Collection[str], known_unowned: Collection[str]
) -> Leftovers:
    """What an interrupted installation may have left, apart from what was so before."""
    broken = tuple(sorted(damaged(site).keys() - set(known_damage)))
    return Leftovers(broken, tuple(sorted(unowned(site, broken) - set(known_unowned))))


def set_aside(site: Path, found: Leftovers, folder: Path) -> None:
    """Move it out of the way, each file below the path that it had in the environment.

    Raises:
        DoctorError: something cannot be moved.
    """
    try:
        whole = (info for info in _infos(site) if info.name not in found.broken)
        kept = {path for info in whole for path, _ in _recorded(info)}
        for name in found.broken:
            _clear_package(site / name, kept, folder)
        # folders of the broken ones, too, with what no list names
        for name in found.unowned:
            _move(site / name, site, folder)
    except OSError as error:
        raise cannot_write(site, error) from error


def _infos(site: Path) -> list[Path]:
    # pip renames what it is about to remove: to `~orch-2.9.1.dist-info`
    return sorted(info for info in site.glob("*.dist-info") if not info.name.startswith("~"))


def _recorded(info: Path) -> Iterator[tuple[str, int | None]]:
    """Files that RECORD names, with their sizes where it knows them; no compiled Python."""
    try:
        for row in csv.reader(io.StringIO(_text(info / "RECORD"), newline="")):
            if row and row[0] and "\0" not in row[0] and not row[0].endswith(".pyc"):
                size = row[2] if len(row) > 2 else ""
                is_size = size.isdecimal() and len(size) <= DIGITS
                yield row[0], int(size) if is_size else None
    except csv.Error:
        return


def _text(path: Path) -> str:
    """A list in a metadata folder; empty where there is none that can be read."""
    try:
        return read_bounded(path, LIMIT).decode("utf-8", "replace")
    except Unknown:
        return ""


def _whole(site: Path, path: str, size: int | None) -> bool:
    found = _size(site / path)
    if found is None:
        return False
    is_library = ".so" in path.rpartition("/")[2]
    return not is_library or size is None or found == size


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _clear_package(info: Path, kept: Collection[str], folder: Path) -> None:
    """Take away what a package's list names, then its metadata: the order that a kill survives.

    A file that is not as the list has it may hold somebody's work, and is moved.

    Args:
        kept: files of other packages.
    """
    site = info.parent
    folders = set()
    for path, size in list(_recorded(info)):
        place = Path(os.path.normpath(site / path))
        if path in kept or not place.is_relative_to(_prefix(site)) or place.is_relative_to(info):
            continue
        if place.is_dir() and not place.is_symlink():
            continue  # a list names files: `.` would be all of it
        if not place.parent.resolve().is_relative_to(_prefix(site).resolve()):
            continue  # behind a link that leads elsewhere
        if size is not None and _size(place) == size and not place.is_symlink():
            place.unlink()
        else:
            _move(place, site, folder)
        folders.add(place.parent)
    for emptied in sorted(folders, key=lambda f: len(f.parts), reverse=True):
        _prune(emptied, site)
    _move(info, site, folder)


def _prefix(site: Path) -> Path:
    return Path(os.path.normpath(site)).parents[2]


def _move(path: Path, site: Path, folder: Path) -> None:
    """Move a file or folder, if it is there; into a folder of its name, if some of it was moved before."""
    if not os.path.lexists(path):
        return
    place = folder / path.relative_to(_prefix(site))
    if place.is_dir() and path.is_dir() and not path.is_symlink():
        for inside in list(path.iterdir()):
            _move(inside, site, folder)
        path.rmdir()
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, place)


def _prune(folder: Path, site: Path) -> None:
    """Remove a folder and those above it while they hold nothing but compiled Python."""
    while folder != site and folder.is_relative_to(site):
        try:
            if any(name not in SHARED for name in os.listdir(folder)):
                return
            shutil.rmtree(folder)
        except OSError:
            return
        folder = folder.parent

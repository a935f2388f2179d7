"""Half-installed packages: which there are, and how what a kill left behind is cleared away.

Whoever installs writes a list of files, RECORD, into the metadata folder of a package. Files that it
names and that are not there, or a folder that no list names, are what an interrupted uv or pip leaves.
"""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from doctor.builder.files import cannot_write

OTHER_METADATA = (".egg-info", ".egg-link")
SHARED = ("__pycache__",)


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


def unowned(site: Path) -> set[str]:
    """Names in site-packages that belong to no installed package."""
    owned = {path.split("/", 1)[0] for info in _infos(site) for path, _ in _recorded(info)}
    owned |= {info.name for info in _infos(site)}
    try:
        names = os.listdir(site)
    except OSError:
        return set()
    return {
        name
        for name in names
        if name not in owned and name not in SHARED and not name.endswith(OTHER_METADATA)
    }


def clear(site: Path, known_damage: Collection[str], known_unowned: Collection[str]) -> list[str]:
    """Remove what was left half-installed, apart from what was so before; returns their names.

    Raises:
        DoctorError: something cannot be removed.
    """
    removed = []
    try:
        broken = damaged(site).keys() - set(known_damage)
        whole = (info for info in _infos(site) if info.name not in broken)
        kept = {path for info in whole for path, _ in _recorded(info)}
        for name in broken:
            _remove_package(site / name, kept)
            removed.append(name)
        for name in unowned(site) - set(known_unowned):
            _remove(site / name)
            removed.append(name)
    except OSError as error:
        raise cannot_write(site, error) from error
    return sorted(removed)


def _infos(site: Path) -> list[Path]:
    # pip renames what it is about to remove: to `~orch-2.9.1.dist-info`
    return sorted(info for info in site.glob("*.dist-info") if not info.name.startswith("~"))


def _recorded(info: Path) -> Iterator[tuple[str, int | None]]:
    """Files that RECORD names, with their sizes where it knows them; no compiled Python."""
    try:
        with (info / "RECORD").open(encoding="utf-8", errors="replace", newline="") as file:
            for row in csv.reader(file):
                if row and row[0] and not row[0].endswith(".pyc"):
                    size = row[2] if len(row) > 2 else ""
                    yield row[0], int(size) if size.isdecimal() else None
    except (OSError, csv.Error):
        return


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


def _remove_package(info: Path, kept: Collection[str]) -> None:
    """Take away what a package's list names, then its metadata: the order that a kill survives.

    Args:
        kept: files of other packages.
    """
    site = info.parent
    prefix = site.resolve().parents[2]
    folders = set()
    for path, _ in list(_recorded(info)):
        place = Path(os.path.normpath(site / path))
        if path in kept or not place.is_relative_to(prefix) or place.is_relative_to(info):
            continue
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
            place.unlink()
        folders.add(place.parent)
    for folder in sorted(folders, key=lambda f: len(f.parts), reverse=True):
        _prune(folder, site)
    _remove(info)


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


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

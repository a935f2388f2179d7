"""Fetches the bundle of CORE tasks: downloaded, unpacked beside its place, read to the end, and only then put there."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from itertools import count
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from nanochat.bundle import AGAIN, COMMAND, YAML_NAME, Bundle, read_bundle, read_examples
from nanochat.download import Patience, Remote, download
from nanochat.errors import NanochatError, WrongUsage
from nanochat.files import BASE_VARIABLE, atomic
from nanochat.lock import locked

CHUNK = 1 << 20

Say = Callable[[str], None]


def fetch(url: str, folder: Path, *, patience: Patience | None = None, say: Say) -> Bundle:
    """Bring the bundle into a folder, unless it is there and whole.

    A download that was broken off continues. What is in the folder and is not whole is kept beside it.

    Args:
        url: address of its zip file, or the path of one that is here.

    Raises:
        WrongUsage: it is neither an address nor a file.
        NanochatError: it cannot be had, is no such bundle, or the disk is too small.
    """
    with locked(
        folder.with_name(f".{folder.name}.lock"),
        lambda: say(f"waiting for another process that fetches {folder}"),
    ):
        if folder.exists() and (bundle := _whole(folder, say)):
            return bundle
        archive, ours = _archive(url, folder, patience, say)
        fresh = folder.with_name(f".{folder.name}.new")
        try:
            bundle = _unpack(archive, fresh, url)
        except NanochatError:
            shutil.rmtree(fresh, ignore_errors=True)
            if ours:  # so that the next attempt fetches another
                archive.unlink(missing_ok=True)
            raise
        _place(fresh, folder, say)
        if ours:
            archive.unlink(missing_ok=True)
        say(f"{folder}: {bundle.summary}")
        return read_bundle(folder)


def require_whole(folder: Path) -> Bundle:
    """The bundle in a folder, after every row of every task was read.

    Raises:
        NanochatError: it is missing, cut or damaged; says where.
    """
    bundle = read_bundle(folder)
    if bundle.absent:
        raise NanochatError(f"{folder} lacks the data of {', '.join(bundle.absent)}; {AGAIN}")
    for task in bundle.tasks:
        read_examples(task)
    return bundle


def _whole(folder: Path, say: Say) -> Bundle | None:
    try:
        bundle = require_whole(folder)
    except NanochatError as error:
        say(f"fetching the bundle again: {error}")
        return None
    say(f"{folder} is there and whole: {bundle.summary}")
    return bundle


def _archive(url: str, folder: Path, patience: Patience | None, say: Say) -> tuple[Path, bool]:
    """The zip file, and whether it is one that was fetched here."""
    if urlsplit(url).scheme not in ("http", "https"):
        path = Path(url).expanduser()
        if not path.is_file():
            raise WrongUsage(
                f"--url is '{url}', which is neither an address (https://…) nor a file"
            )
        return path, False
    # a name for each address: what was begun from one is never continued from another
    name = f".{folder.name}-{zlib.crc32(url.encode()):08x}.zip"
    target = folder.with_name(name)
    try:
        download([Remote(url, target)], patience=patience, say=say, what="evaluation bundle")
    except NanochatError as error:
        raise NanochatError(
            f"the evaluation bundle cannot be fetched: {error}; --url names another address, or a file"
        ) from error
    return target, True


def _unpack(archive: Path, folder: Path, origin: str) -> Bundle:
    """Unpack and read all of it.

    Raises:
        NanochatError: it is no zip file, damaged, of other contents, or has paths that lead elsewhere.
    """
    if folder.exists():  # left by a process that was killed
        shutil.rmtree(folder)
    try:
        with zipfile.ZipFile(archive) as source:
            members = _members(source, origin)
            _require_room(folder.parent, sum(info.file_size for info in members.values()))
            for name, info in members.items():
                with source.open(info) as reader, atomic(folder / name) as writer:
                    shutil.copyfileobj(reader, writer, CHUNK)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        # RuntimeError is a member behind a password, NotImplementedError an unknown compression
        raise NanochatError(
            f"{origin} is no zip file that can be read ({error}); run '{COMMAND}' again, or name another with --url"
        ) from error
    except OSError as error:
        raise NanochatError(
            f"{archive} cannot be read: {error.strerror or error}; make it readable for this user"
        ) from error
    return require_whole(folder)


def _members(source: zipfile.ZipFile, origin: str) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Files of the bundle by their paths in it; what lies beside its folder in the archive is left out."""
    infos = [info for info in source.infolist() if not info.filename.endswith("/")]
    files = {PurePosixPath(info.filename): info for info in infos}
    for path, info in files.items():
        # a name of nothing, or of points alone, would be the folder itself
        leads_out = (
            not path.parts or path.is_absolute() or ".." in path.parts or "\\" in info.filename
        )
        if leads_out or ":" in path.parts[0] or stat.S_ISLNK(info.external_attr >> 16):
            raise NanochatError(
                f"{origin} holds '{info.filename}', a path or link that leads elsewhere, and was not unpacked; name "
                "a sound one with --url"
            )
    tops = sorted(
        (path.parent for path in files if path.name == YAML_NAME), key=lambda p: len(p.parts)
    )
    if not tops:
        raise NanochatError(
            f"{origin} is a zip file without {YAML_NAME}, and so no evaluation bundle; name another with --url"
        )
    return {
        path.relative_to(tops[0]): info
        for path, info in files.items()
        if path.is_relative_to(tops[0])
    }


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise NanochatError(
            f"the evaluation bundle needs {needed / 1e6:.0f} MB, but {folder} has {free / 1e6:.0f} MB free; free "
            f"some, or choose another disk with {BASE_VARIABLE}"
        )


def _place(fresh: Path, folder: Path, say: Say) -> None:
    """Give what was unpacked its name; whatever has it now gets another."""
    try:
        if folder.exists():
            names = (folder.with_name(f"{folder.name}-damaged-{n}") for n in count(1))
            aside = next(path for path in names if not path.exists())
            os.rename(folder, aside)
            say(f"what was in {folder} is now in {aside}")
        os.rename(fresh, folder)
    except OSError as error:
        raise NanochatError(
            f"{folder} cannot be made: {error.strerror or error}; choose another base folder with {BASE_VARIABLE}"
        ) from error

"""What indexes answered lately, kept on the disk: one small JSON file per page.

A cache may only ever save time. Whatever is wrong with an entry or the folder, it is as if there were none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doctor.errors import Unknown
from doctor.index.page import File
from doctor.text.bounded import parse_json, read_bounded

SCHEMA = 2
LIMIT = 64 << 20
DAY = 86_400.0
FAILURE_SECONDS = 60.0
"""Long enough for `plan` and `apply` after it, short enough for somebody who has just plugged in the cable."""


@dataclass(frozen=True)
class Answer:
    """How asking for one page went: the wheels on it, or why there is no answer.

    Attributes:
        unsure: nothing was refused: nothing came in time, or a password is asked for.
    """

    files: tuple[File, ...] = ()
    trouble: str | None = None
    unsure: bool = False


@dataclass(frozen=True)
class Cache:
    """Answers in a folder.

    Attributes:
        folder: made when it is first written to; None keeps nothing.
        now: seconds since the epoch.
    """

    folder: Path | None
    now: float

    def read(self, url: str) -> Answer | None:
        """The answer of a page, if it is fresh: a day for files, a minute for failures."""
        if self.folder is None:
            return None
        try:
            entry = parse_json(read_bounded(self._path(self.folder, url), LIMIT))
            if entry["schema"] != SCHEMA or entry["page"] != _digest(url):
                return None
            answer, age = _answer(entry), self.now - float(entry["time"])
        except (Unknown, ValueError, LookupError, TypeError):
            return None
        limit = DAY if answer.trouble is None else FAILURE_SECONDS
        return answer if 0 <= age < limit else None

    def write(self, url: str, answer: Answer) -> None:
        """Keep an answer. It appears whole or not at all; a folder that cannot be written to keeps nothing."""
        if self.folder is None:
            return
        path = self._path(self.folder, url)
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        entry = {
            "schema": SCHEMA,
            "page": _digest(url),
            "time": self.now,
            "trouble": answer.trouble,
            "unsure": answer.unsure,
            "files": [dataclasses.astuple(file) for file in answer.files],
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(entry), encoding="utf-8")
            # No fsync: what a power cut leaves damaged is not believed by `read`.
            os.replace(partial, path)
            _clear(self.folder)
        except OSError:
            with contextlib.suppress(OSError):  # a folder that takes no file and gives none back
                partial.unlink(missing_ok=True)

    @staticmethod
    def _path(folder: Path, url: str) -> Path:
        return folder / f"{_digest(url)[:32]}.json"


def _digest(url: str) -> str:
    """Stands for an address, in which there may be a password, a token, or the name of somebody's own server."""
    return hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()


def _clear(folder: Path) -> None:
    """Take away what nobody reads any more: earlier versions of this wrote addresses into it."""
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - DAY:
                path.unlink()


def _answer(entry: Mapping[str, Any]) -> Answer:
    """Raises LookupError, TypeError or ValueError for an entry that we did not write."""
    trouble = entry["trouble"]
    if not (trouble is None or isinstance(trouble, str)):
        raise TypeError("trouble")
    files = []
    for name, requires_python, size in entry["files"]:
        if not (isinstance(name, str) and isinstance(requires_python, str)):
            raise TypeError("file")
        if not (size is None or type(size) is int):
            raise TypeError("size")
        files.append(File(name, requires_python, size))
    return Answer(tuple(files), trouble, entry.get("unsure") is True)

"""What indexes answered lately, kept on the disk: one small JSON file per page.

A cache may only ever save time. Whatever is wrong with an entry or the folder, it is as if there were none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doctor.index_page import File
from doctor.look import without_credentials

SCHEMA = 1
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


def cache_folder(env: Mapping[str, str]) -> Path | None:
    """Where answers are kept: below `XDG_CACHE_HOME`, else `~/.cache`; None for somebody without a home."""
    base = env.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # a relative one is to be ignored, by the XDG specification
        home = env.get("HOME", "")
        if not os.path.isabs(home):
            return None
        base = os.path.join(home, ".cache")
    return Path(base, "nanochat-doctor", "index")


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
            entry = json.loads(self._path(self.folder, url).read_bytes())
            if entry["schema"] != SCHEMA or entry["url"] != without_credentials(url):
                return None
            answer, age = _answer(entry), self.now - float(entry["time"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
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
            "url": without_credentials(url),
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
        except OSError:
            try:
                partial.unlink(missing_ok=True)
            except OSError:
                pass  # a folder that takes no file and gives none back

    @staticmethod
    def _path(folder: Path, url: str) -> Path:
        return folder / f"{hashlib.sha256(without_credentials(url).encode()).hexdigest()[:32]}.json"


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

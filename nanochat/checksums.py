"""Checksums of shards, `checksums.json` beside them: text that changed on the disk is never trained on in silence.

Parquet's own page checksums cover the text but not the footer, and published shards have none.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path

from nanochat.errors import NanochatError
from nanochat.files import atomic, crc32

FILE = "checksums.json"
"""Name of a shard -> CRC-32 of the whole file, as eight hexadecimal digits."""


def record(paths: Iterable[Path]) -> None:
    """Note what these files of one folder are now, in place of what was noted of them before.

    Raises:
        NanochatError: one cannot be read, or the note cannot be written.
    """
    folders: dict[Path, dict[str, str]] = {}
    for path in paths:
        try:
            folders.setdefault(path.parent, {})[path.name] = crc32(path)
        except OSError as error:
            raise NanochatError(f"{path} cannot be read: {error.strerror or error}") from error
    for folder, new in folders.items():
        with atomic(folder / FILE, "w") as file:
            file.write(json.dumps({**known(folder), **new}, indent=1, sort_keys=True) + "\n")


def known(folder: Path) -> dict[str, str]:
    """What was recorded in a folder; nothing where nothing was.

    Raises:
        NanochatError: it was, and cannot be read any more.
    """
    path = folder / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
            raise ValueError("it holds no names and checksums")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise NanochatError(
            f"{path} cannot be read ({error}), so that nobody knows whether the shards are sound; bring it back, "
            "or delete it to trust them as they are"
        ) from error
    return values


def difference(path: Path) -> str:
    """How a file differs from what was recorded of it: the rest of a sentence that begins with its name; else empty.

    Every file is read once for this, and again when it has changed.

    Raises:
        OSError: it cannot be read.
        NanochatError: as `known`.
    """
    facts = path.stat()
    return _difference(path, facts.st_size, facts.st_mtime_ns)


@functools.cache
def _difference(path: Path, _size: int, _changed: int) -> str:
    recorded = known(path.parent).get(path.name)
    if recorded is None or recorded == crc32(path):
        return ""
    return f"is not what {FILE} says it was: it was damaged or replaced"

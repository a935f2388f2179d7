"""Where the trainer keeps its things, and how a file that matters gets there whole."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from nanochat.errors import NanochatError

BASE_VARIABLE = "NANOCHAT_BASE_DIR"
CHUNK = 1 << 20


def base_dir() -> Path:
    """`NANOCHAT_BASE_DIR`, or `~/.cache/nanochat`; not made here."""
    named = os.environ.get(BASE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "nanochat"


@contextmanager
def atomic(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that appears under its name only when it is whole and on the disk.

    It is written beside the target, flushed and renamed, so that a kill at any moment leaves the old file or
    the new one. Folders are made as needed.

    Raises:
        NanochatError: the file cannot be written: no space, no permission.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _flush_folder(path.parent)
    except OSError as error:
        _discard(partial)
        raise NanochatError(
            f"{path} cannot be written: {error.strerror or error}; free space or choose another folder "
            f"with {BASE_VARIABLE}"
        ) from error
    except BaseException:
        _discard(partial)
        raise


def crc32(path: Path) -> str:
    """The CRC-32 of a file, as eight hexadecimal digits; read in pieces."""
    value = 0
    with open(path, "rb") as file:
        while piece := file.read(CHUNK):
            value = zlib.crc32(piece, value)
    return f"{value:08x}"


def _discard(partial: Path) -> None:
    """Remove what was not finished; where even that fails, the first error is the one to tell."""
    try:
        partial.unlink(missing_ok=True)
    except OSError:
        pass


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut; some file systems cannot, which is no reason to stop."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)

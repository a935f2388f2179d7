"""One process at a time: a lock on a file, which the system itself releases when its holder dies."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nanochat.errors import NanochatError

POLL = 0.2
"""Seconds between two attempts where the system has no waiting lock."""

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    def _acquire(handle: int, wait: bool) -> None:
        while True:
            try:
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
                return
            except OSError:
                if not wait:
                    raise BlockingIOError from None
            time.sleep(POLL)

else:

    def _acquire(handle: int, wait: bool) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


@contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock named `path`; `waiting` is called once if another process (or thread) has it.

    The file stays behind, empty: who deletes a lock file may delete that of another. A process that was
    killed holds nothing.

    Raises:
        NanochatError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise NanochatError(
            f"{path.parent} cannot be written: {error.strerror or error}; choose another folder"
        ) from error
    try:
        try:
            _wait(handle, waiting)
        except OSError:
            # Some network file systems know no locks: then at least processes on this machine keep apart.
            local = os.open(_local(path), os.O_RDWR | os.O_CREAT, 0o666)
            os.close(handle)
            handle = local
            _wait(handle, waiting)
        yield
    finally:
        os.close(handle)


def _wait(handle: int, waiting: Callable[[], None]) -> None:
    try:
        _acquire(handle, wait=False)
    except BlockingIOError:
        waiting()
        _acquire(handle, wait=True)


def _local(path: Path) -> Path:
    """A file on this machine's own disk that stands for a lock elsewhere."""
    name = hashlib.blake2b(str(path.resolve()).encode(), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir()) / f"nanochat-{name}.lock"

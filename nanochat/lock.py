"""One process at a time: a lock on a file, which the system itself releases when its holder dies."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
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
    handle = _open(path)
    try:
        try:
            _wait(handle, waiting)
        except OSError:
            handle = _instead(handle, path)
            _wait(handle, waiting)
        yield
    finally:
        os.close(handle)


class Taken(Exception):
    """Another process holds a lock; says which."""


def hold(path: Path) -> None:
    """Take the lock named `path` for as long as this process lives; who holds it is written into the file.

    Raises:
        Taken: another process has it.
        NanochatError: the folder cannot be written.
    """
    handle = _open(path)
    try:
        try:
            _acquire(handle, wait=False)
        except BlockingIOError:
            raise
        except OSError:
            handle = _instead(handle, path)
            _acquire(handle, wait=False)
    except BlockingIOError:
        holder = os.read(handle, 200).decode(errors="replace").strip()
        os.close(handle)
        raise Taken(holder or "its process did not say which it is") from None
    os.ftruncate(handle, 0)
    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
    _held.append(handle)


_held: list[int] = []
"""Open until the process ends: with the handle goes the lock."""


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        raise NanochatError(
            f"{path.parent} cannot be written: {error.strerror or error}; choose another folder"
        ) from error


def _instead(handle: int, path: Path) -> int:
    """For network file systems that know no locks: then at least processes on this machine keep apart."""
    local = open_own(_local(path))
    os.close(handle)
    return local


def _wait(handle: int, waiting: Callable[[], None]) -> None:
    try:
        _acquire(handle, wait=False)
    except BlockingIOError:
        waiting()
        _acquire(handle, wait=True)


def _local(path: Path) -> Path:
    """A file on this machine's own disk that stands for a lock elsewhere."""
    return local_stand_in("nanochat", path)


def local_stand_in(prefix: str, path: Path) -> Path:
    """The name below the folder for temporary files of a lock that stands for `path`; each user has one."""
    name = hashlib.blake2b(os.fsencode(path.resolve()), digest_size=8).hexdigest()
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()) / f"{prefix}-{user}-{name}.lock"


def open_own(path: Path) -> int:
    """Open a lock file, made where there is none, in a folder in which others may have put something first.

    Returns:
        the descriptor.

    Raises:
        NanochatError: it is a link, no plain file, or belongs to somebody else: what is written to it
            would land in a file of another's choice.
        OSError: it cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        found = None
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise _not_ours(path, "is no plain file")
    handle = os.open(path, flags, 0o600)
    try:
        opened = os.fstat(handle)
        if not stat.S_ISREG(opened.st_mode) or opened.st_nlink != 1:
            raise _not_ours(path, "is no plain file of its own")
        if hasattr(os, "geteuid") and opened.st_uid != os.geteuid():
            raise _not_ours(path, "belongs to another user")
    except BaseException:
        os.close(handle)
        raise
    return handle


def _not_ours(path: Path, why: str) -> NanochatError:
    return NanochatError(
        f"the lock {path} {why}, so it is not written to; remove it, or set TMPDIR to a folder of your own"
    )

"""One at a time in an environment: a lock that ends with its holder, and with what that left running.

The commands of a step inherit the lock. So it stays held while a command goes on whose `apply` was
killed, and whoever comes next knows which processes those are: they bear the lock's name in their
environment.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from doctor.errors import DoctorError
from doctor.work.files import cannot_write
from nanochat.errors import NanochatError
from nanochat.lock import local_stand_in, open_own

LOCK_VARIABLE = "NANOCHAT_DOCTOR_LOCK"
"""Set for the commands of a step, so that they are known when a kill leaves them behind."""

POLL = 0.2
"""Seconds between two attempts."""

SETTLE = 0.5
"""Seconds in which a new holder has written its name: until then an old one may stand in the file."""

LEFTOVER_SECONDS = 10.0
"""How long what a killed holder left behind may take to end."""


@contextlib.contextmanager
def exclusive(path: Path, *, wait: bool, say: Callable[[str], None]) -> Iterator[int]:
    """Hold the lock `path`; yields the descriptor that commands are to inherit.

    Args:
        wait: wait for another holder rather than give up.

    Raises:
        DoctorError: another process holds it, or it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _opened(path)
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    try:
        _acquire(descriptor, path, wait, say)
        try:
            _sign(descriptor)
            yield descriptor
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
                # not by closing alone: a daemon that a command started may keep its copy open
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    """The lock file; on a file system without locks, one on the local disk that stands for it.

    Raises:
        DoctorError: that one is not ours.
        OSError: neither can be made.
    """
    # never through a link: who holds the lock empties the file
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        _try(descriptor)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        os.close(descriptor)
        try:
            return open_own(local_stand_in("nanochat-doctor", path))
        except NanochatError as foreign:
            raise DoctorError(f"{foreign}.") from foreign
    return descriptor


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _acquire(descriptor: int, path: Path, wait: bool, say: Callable[[str], None]) -> None:
    told = False
    while not _try(descriptor):
        holder = _holder(descriptor)
        time.sleep(SETTLE)
        if holder != _holder(descriptor):
            continue
        if holder and not _alive(*holder):
            _end_leftovers(descriptor, path)
            continue
        who = f"process {holder[0]}" if holder else "another process"
        if not wait:
            raise DoctorError(
                f"{who} is already changing {path.parent.parent}; wait for its end, then start again."
            )
        if not told:
            say(f"waiting for {who}, which is changing {path.parent.parent}")
            told = True
        time.sleep(POLL)


def _sign(descriptor: int) -> None:
    """Write who holds the lock: process and the moment it began, since numbers are used again."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps([os.getpid(), _began(os.getpid())]).encode(), 0)


def _holder(descriptor: int) -> tuple[int, str | None] | None:
    try:
        pid, began = json.loads(os.pread(descriptor, 200, 0))
        return int(pid), began
    except (OSError, ValueError, TypeError):
        return None


def _alive(pid: int, began: str | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return began is None or _began(pid) == began


def _began(pid: int) -> str | None:
    """Start of a process in clock ticks since boot; None where there is no /proc, or it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    # a zombie holds nothing any more
    return fields[19] if fields[0] != "Z" else "ended"


def _end_leftovers(descriptor: int, path: Path) -> None:
    """End commands that a killed holder left running.

    Raises:
        DoctorError: they do not end.
    """
    deadline = time.monotonic() + LEFTOVER_SECONDS
    while time.monotonic() < deadline:
        for pid in _commands(path):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL)
        if _try(descriptor):
            return
    raise DoctorError(
        f"a command that a killed run left behind still changes {path.parent.parent}; "
        "end it, then start again."
    )


def _commands(path: Path) -> Iterator[int]:
    """Processes that were started as commands under this lock; none where there is no /proc."""
    mark = f"{LOCK_VARIABLE}={path}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                yield int(process.name)

"""Runs one program of a build: its words go to the log, its end is ours, and ours is its end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from doctor.errors import DoctorError
from doctor.work import processes

POLL = 0.1
"""Seconds between two looks at the log."""

LINE = 1 << 16
"""Bytes after which a line is passed on whose end has not come."""

PR_SET_PDEATHSIG = 1


class Stopped(BaseException):
    """The user, or a signal, ended the build; no handler of mere failures takes it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Make the signals that end a program an exception, so that the compilers are ended first."""

    def stop(number: int, _frame: FrameType | None) -> None:
        # a second one must not tear what the first one tidies up
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    former = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Whatever ends this block, no program that was started in it goes on, nor a child of one.

    They bear a mark in their environment, unless a build has given them its own (see `processes`).
    """
    mark, former = f"call {os.getpid()}", os.environ.get(processes.MARK)
    os.environ[processes.MARK] = mark
    try:
        yield
    finally:
        os.environ.pop(processes.MARK)
        if former is not None:
            os.environ[processes.MARK] = former
        processes.end(mark)


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    log: Path,
    mark: str,
    heard: Callable[[str], None] = lambda line: None,
    tick: Callable[[], None] = lambda: None,
    tick_seconds: float = 1.0,
) -> int:
    """Run a program to its end; its status, below 0 where a signal ended it.

    It writes to the log itself, not to a pipe of ours, so that what it said outlives us. Whatever
    ends this function early ends the program with all that it started, within 5 s.

    Args:
        mark: identifies the build's processes (see `processes`).
        heard: gets each line.
        tick: is called about every `tick_seconds`.

    Raises:
        DoctorError: it cannot be started, or the log cannot be written.
    """
    try:
        file = log.open("ab")
    except OSError as error:
        raise DoctorError(
            f"The log {log} cannot be written: {error.strerror}; make its folder writable."
        ) from error
    with file, log.open("rb") as reader:
        file.write(f"\n$ {shlex.join(command)}\n".encode("utf-8", "replace"))
        file.flush()
        reader.seek(file.tell())
        try:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**env, processes.MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        except OSError as error:
            raise DoctorError(
                f"{command[0]} cannot be started: {error.strerror}; see whether it is whole."
            ) from error
        try:
            _follow(process, reader, heard, tick, tick_seconds)
        finally:
            if process.poll() is None:
                processes.end(mark, [process.pid])
                process.wait()
    return process.returncode


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    """In the child: be asked to end when the parent is killed; ninja then ends its compilers."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _follow(
    process: subprocess.Popen[bytes],
    reader: IO[bytes],
    heard: Callable[[str], None],
    tick: Callable[[], None],
    tick_seconds: float,
) -> None:
    rest, next_tick = b"", time.monotonic() + tick_seconds
    while True:
        ended = process.poll() is not None
        for data in _until(reader, os.fstat(reader.fileno()).st_size):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                heard(_text(line))
        if ended:
            if rest:
                heard(_text(rest))
            return
        if time.monotonic() >= next_tick:
            tick()
            next_tick = time.monotonic() + tick_seconds
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL)


def _until(reader: IO[bytes], size: int) -> Iterator[bytes]:
    """What is new in a file up to a size, in pieces."""
    while data := reader.read(max(0, min(LINE, size - reader.tell()))):
        yield data


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")


def search_path(python: str, env: Mapping[str, str]) -> str:
    """PATH of a build: the interpreter's own folder first, where pip puts cmake and ninja."""
    return os.pathsep.join([os.path.dirname(python), env.get("PATH", os.defpath)])


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment for a build: no modules from elsewhere, and compilers that speak English."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "LANGUAGE")
    kept = {k: v for k, v in env.items() if k not in dropped}
    return kept | {"HOME": env.get("HOME", os.sep), "LC_ALL": "C"}

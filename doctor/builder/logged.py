"""Programs that take minutes: all they say goes to a log, and they end with us, children and all."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from doctor.errors import DoctorError

POLL = 0.1
"""Seconds between two looks at the log."""
GRACE = 3.0
"""Seconds that a program has to end by itself once it was asked to."""

Heard = Callable[[str], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Ended:
    """How a program ended; `status` is below 0 where a signal ended it."""

    status: int
    text: str

    def last_line(self) -> str:
        """The last line that says anything, or the status."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        return lines[-1] if lines else f"status {self.status}"


class Log:
    """A log file, and the programs that write to it one after another.

    They write to the file itself, not to a pipe: a server that one of them leaves behind (sccache)
    would keep a pipe open for ever, and what was said survives our own death.

    Raises:
        DoctorError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        except OSError as error:
            raise DoctorError(
                f"{path} cannot be written: {error.strerror}; make its folder writable for this user."
            ) from error

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        heard: Heard = lambda line: None,
        seconds: float | None = None,
    ) -> Ended:
        """Run a program to its end and hand each line that it says to `heard`.

        An exception in here, Ctrl-C among them, ends the program and all that it started.

        Args:
            seconds: after which it is ended; None waits as long as it takes.

        Raises:
            DoctorError: it cannot be started.
        """
        with self.path.open("a+b") as file:
            file.write(f"\n$ {shlex.join(command)}\n".encode())
            file.flush()
            start = file.tell()
            try:
                process = subprocess.Popen(
                    command,
                    cwd=cwd,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise DoctorError(
                    f"{command[0]} cannot be started: {error.strerror}; see whether it is whole."
                ) from error
            with self.path.open("rb") as reader, _ended_with_us(process):
                reader.seek(start)
                text = "".join(_follow(process, reader, heard, seconds))
        return Ended(process.returncode, text)


def _follow(
    process: subprocess.Popen[bytes], reader: IO[bytes], heard: Heard, seconds: float | None
) -> Iterator[str]:
    """Lines of the log as they come, until the program has ended or its time is up."""
    end = None if seconds is None else time.monotonic() + seconds
    rest = b""
    while True:
        ended = process.poll() is not None
        rest += reader.read()
        *lines, rest = rest.split(b"\n")
        if ended and rest:
            lines, rest = [*lines, rest], b""
        for line in lines:
            text = line.decode("utf-8", "replace")
            heard(text)
            yield f"{text}\n"
        if ended:
            return
        if end is not None and time.monotonic() > end:
            stop(process)
            continue
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a program and all that runs in its group: first asked, then not."""
    _signal_group(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    # even where the leader is gone by now, its children may not be
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def _ended_with_us(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever ends this block early, a closed terminal or a plain kill too, ends the program.

    Ctrl-C reaches us alone, since the program has a session of its own.
    """
    former = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                former[number] = signal.signal(number, _leave)
    try:
        yield
    except BaseException:
        stop(process)
        raise
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    """Turn a signal into an exception with the status that shells give it."""
    sys.exit(128 + number)


class LiveLine:
    """How far something is: one line that changes on a terminal, a line now and then elsewhere."""

    PAUSE = 10.0
    """Seconds between two lines where there is no terminal."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._terminal = sys.stderr.isatty()
        self._spoken = time.monotonic()
        self._drawn = False

    def show(self, text: str) -> None:
        """Show how far it is now."""
        if self._terminal:
            width = max(20, _columns() - 1)
            sys.stderr.write(f"\r\x1b[K{text[:width]}")
            sys.stderr.flush()
            self._drawn = True
        elif time.monotonic() - self._spoken >= self.PAUSE:
            self._spoken = time.monotonic()
            self._say(text)

    def clear(self) -> None:
        """Take the line away."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80

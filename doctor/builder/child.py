"""Runs a command of a step: its output with the time into a log, and nothing of it left when we go."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from doctor.builder.commands import Line
from doctor.builder.files import cannot_write
from doctor.look import without_credentials

TAIL = 200
"""Lines of output that are kept to find the cause of a failure."""

GRACE = 3.0
"""Seconds that a command has to end by itself once it was asked to."""

LINE_END = b"\n"


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: below 0 where a signal ended it, 127 where it could not be started.
        tail: its last lines.
        expired: ended by us, because its time was up.
    """

    status: int
    tail: tuple[str, ...]
    expired: bool = False


def run(
    line: Line,
    *,
    cwd: Path,
    env: Mapping[str, str],
    log: Path,
    seconds: float,
    heard: Callable[[str], None] = lambda text: None,
    inherit: tuple[int, ...] = (),
) -> Ended:
    """Run a command to its end. An exception in here, Ctrl-C among them, ends it and all it started.

    Args:
        log: file to which its lines are added.
        seconds: after which it is ended.
        heard: hears each line.
        inherit: descriptors that it keeps open: the lock.

    Raises:
        DoctorError: the log cannot be written.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = log.open("ab")
    except OSError as error:
        raise cannot_write(log, error) from error
    with file:
        _note(file, f"$ {without_credentials(line.text)}")
        try:
            process = subprocess.Popen(
                line.words,
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=inherit,
            )
        except OSError as error:
            text = f"{line.words[0]} cannot be started: {error.strerror or error}"
            _note(file, text)
            return Ended(127, (text,))
        tail: deque[str] = deque(maxlen=TAIL)
        expired = False
        try:
            for said in _lines(process, time.monotonic() + seconds):
                text = without_credentials(said)
                _note(file, text)
                tail.append(text)
                heard(text)
            process.wait()
        except TimeoutError:
            expired = True
            _stop(process)
        except BaseException:
            _stop(process)
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()
        _note(file, f"status {process.returncode}")
    return Ended(process.returncode, tuple(tail), expired)


def _lines(process: subprocess.Popen[bytes], deadline: float) -> Iterator[str]:
    """Lines as they come. A daemon that a command leaves behind keeps the pipe open: it is not waited for.

    Raises:
        TimeoutError: the time is up.
    """
    assert process.stdout is not None
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            ready = selector.select(0.0 if process.poll() is not None else 0.1)
            data = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
            # progress that is drawn over itself becomes lines
            *whole, rest = (rest + data).replace(b"\r", LINE_END).split(LINE_END)
            yield from (text for raw in whole if (text := _text(raw)))
            if not data and (ready or process.poll() is not None):
                break
            if time.monotonic() > deadline:
                raise TimeoutError
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.05)
    if text := _text(rest):
        yield text


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace").rstrip()


def _note(file: IO[bytes], text: str) -> None:
    """One line with the time. A full disk must not hide what it has made fail."""
    with contextlib.suppress(OSError):
        file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}\n".encode())
        file.flush()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a command and its group: first asked, then not."""
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack, as Ctrl-C does, with the status that shells give them."""
    former = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                former[number] = signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)

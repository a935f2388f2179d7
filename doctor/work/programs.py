"""Runs programs: those that take minutes, with all they say in a log, and those that are asked for an answer.

The former end with us, children and all.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from doctor.errors import Unknown
from doctor.machine.system import collect
from doctor.text.bounded import parse_json
from doctor.work.files import cannot_write
from doctor.work.private import shown

KEPT = 100_000
"""Lines of output that are kept in memory; the log has all of them."""

LETTERS = 4000
"""Of each that is kept."""

LINE = 1 << 16
"""Letters after which a line is passed on whose end has not come."""

POLL = 0.1
"""Seconds between two looks at the clock."""

PIPE = 1 << 20
"""Bytes that a pipe holds at most: what a program has left in it takes one look."""

GRACE = 3.0
"""Seconds that a program has to end by itself once it was asked to."""

DAY = 24 * 3600.0

Say = Callable[[str], None]
"""Hears a line that is meant for the user."""


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Attributes:
        status: below 0 where a signal ended it, 127 where it could not be started.
        lines: what it said, without credentials and private addresses, and visible all of it.
        expired: ended by us, because its time was up.
    """

    status: int
    lines: tuple[str, ...] = ()
    expired: bool = False

    @property
    def failed(self) -> bool:
        """Whether it did not end well."""
        return self.status != 0 or self.expired

    @property
    def text(self) -> str:
        """All that it said."""
        return "\n".join(self.lines)

    def last_line(self) -> str:
        """The last line that says anything, or the status."""
        said = (line.strip() for line in reversed(self.lines))
        return next((line for line in said if line), f"status {self.status}")


class Log:
    """A new log file, and the programs that write to it one after another.

    Args:
        inherit: descriptors that the programs keep open: a lock.

    Raises:
        DoctorError: the file cannot be written.
    """

    def __init__(self, path: Path, inherit: Sequence[int] = ()) -> None:
        self.path = path
        self._inherit = inherit
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        except OSError as error:
            raise cannot_write(path, error) from error

    def run(
        self,
        words: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        heard: Callable[[str], None] = lambda line: None,
        seconds: float = DAY,
    ) -> Ended:
        """Run a program to its end and hand each line that it says to `heard`.

        An exception in here, Ctrl-C among them, ends the program and all that it started; so do other signals
        within `signals_raise`.

        Args:
            seconds: after which it is ended.

        Raises:
            DoctorError: the log cannot be written.
        """
        try:
            file = self.path.open("ab")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        with file:
            _note(file, f"$ {shown(shlex.join(words))}")
            try:
                process = subprocess.Popen(
                    words,
                    cwd=cwd,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=self._inherit,
                )
            except OSError as error:
                said = f"{words[0]} cannot be started: {error.strerror or error}"
                _note(file, said)
                return Ended(127, (said,))
            ended = _listen(process, file, heard, seconds)
            _note(file, f"status {ended.status}")
        return ended


def _listen(
    process: subprocess.Popen[bytes], file: IO[bytes], heard: Callable[[str], None], seconds: float
) -> Ended:
    """Hear a program to its end, which we bring about where its time is up, or ours is."""
    kept: deque[str] = deque(maxlen=KEPT)
    expired = False
    try:
        for said in _lines(process, seconds):
            line = shown(said)
            _note(file, line)
            kept.append(line[:LETTERS])
            heard(line)
    except subprocess.TimeoutExpired:
        expired = True
        _stop(process)
    except BaseException:
        _stop(process)
        raise
    finally:
        assert process.stdout is not None
        process.stdout.close()
    return Ended(process.returncode, tuple(kept), expired)


def _lines(process: subprocess.Popen[bytes], seconds: float) -> Iterator[str]:
    """Lines as they come. A daemon that a program leaves behind keeps the pipe open: it is not waited for.

    Raises:
        subprocess.TimeoutExpired: the time is up.
    """
    assert process.stdout is not None
    end = time.monotonic() + seconds
    # progress that is drawn over itself becomes lines
    utf8 = codecs.getincrementaldecoder("utf-8")("replace")
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    rest = ""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            ended = process.poll() is not None
            ready = selector.select(0.0 if ended else POLL)
            data = os.read(process.stdout.fileno(), PIPE) if ready else b""
            *whole, rest = (rest + decoder.decode(data)).split("\n")
            if len(rest) > LINE:
                whole, rest = [*whole, rest], ""
            yield from (line.rstrip() for line in whole)
            if ended or (ready and not data):
                break
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(process.args, seconds)
    if rest := rest + decoder.decode(b"", final=True):
        yield rest.rstrip()
    process.wait(max(0.0, end - time.monotonic()))


def _note(file: IO[bytes], text: str) -> None:
    """One line with the time. A full disk must not hide what it has made fail."""
    with contextlib.suppress(OSError):
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
        file.write(f"{stamp} {text}\n".encode("utf-8", "surrogateescape"))
        file.flush()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a program and its group: first asked, then not. Where it has gone already, its children may be there."""
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack, as Ctrl-C does, with the status that shells give them.

    They reach us alone, since programs have sessions of their own.
    """
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


# --- short ones ------------------------------------------------------------------------------


def ask(
    words: Sequence[str], *, env: Mapping[str, str], seconds: float, cwd: Path | None = None
) -> Any:
    """The JSON on the last line that a program prints.

    Not by `System`, which answers a question once: where something is changed, so are answers.

    Raises:
        OSError: it cannot be started.
        Unknown: it prints something else, without end, or nothing in time.
    """
    process = subprocess.Popen(
        words,
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    done = collect(process, words[0], seconds)
    try:
        return parse_json(done.stdout.splitlines()[-1].encode())
    except (Unknown, IndexError):
        said = done.stderr.strip().splitlines()
        reason = f": {said[-1][:LETTERS]}" if said else ""
        raise Unknown(f"{words[0]} ended with status {done.status}{reason}") from None


def with_own_path(env: Mapping[str, str]) -> dict[str, str]:
    """An environment in which what lies beside our own interpreter, uv for one, is found after all else."""
    ours = str(Path(sys.executable).parent)
    return {**env, "PATH": f"{env.get('PATH', os.defpath)}{os.pathsep}{ours}"}


def has_uv(env: Mapping[str, str]) -> bool:
    """Whether uv is on the PATH of an environment, or beside our own interpreter."""
    return shutil.which("uv", path=with_own_path(env)["PATH"]) is not None

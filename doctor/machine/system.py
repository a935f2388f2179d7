"""The only door to the machine: run a program, read a file, list a folder; live, or below a root.

Everything that looks at a machine goes through a `System`, so that a container image, a mounted
disk or a test's folder can stand in for it. Paths are those of the examined machine; below a root
they and every link on the way are followed as if the root were `/`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from doctor.errors import Unknown, WrongUsage
from doctor.machine.background import Background
from doctor.machine.reader import FileReader
from doctor.text.quantities import memory

PROGRAM_SECONDS = 5.0
"""A program that has not answered by then never will; all of them together get no more."""

OUTPUT_LIMIT = 8 << 20
FILE_LIMIT = 8 << 20
READ_STEP = 1 << 16
LINK_LIMIT = 40

ROOT_PROGRAM_FOLDERS = (
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/usr/local/cuda/bin",
    "/usr/local/Ascend/driver/tools",
    "/root/.cargo/bin",
)
"""Where programs are looked up below a root: its PATH may name folders of the machine outside."""

NOT_RUN = "programs of the tree are not run without --execute"

Running = subprocess.Popen[bytes]

HOST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Completed:
    """A program that ran to its end: exit status and both streams as text."""

    status: int
    stdout: str
    stderr: str


class System:
    """A machine that can be looked at.

    Args:
        root: folder to take for `/`; None looks at this machine itself.
        execute: whether programs of that folder may be run; what they are is not ours to know.
        seconds: time that all programs together may take, counted from now.

    Attributes:
        live: whether it is this machine.
        runs: whether programs are run at all.
    """

    def __init__(
        self, root: Path | None = None, seconds: float = PROGRAM_SECONDS, *, execute: bool = False
    ) -> None:
        if root is not None and not root.is_dir():
            raise WrongUsage(f"--root {root} is no folder; give the top of an unpacked system.")
        self.root = root.resolve() if root is not None else None
        self.live = root is None
        self.runs = self.live or execute
        self.deadline = time.monotonic() + seconds
        self.env = dict(os.environ) if self.live else self._root_environment()
        self._runs: dict[tuple[str, ...], Background[Completed]] = {}
        self._running: set[Running] = set()
        self._closed = False
        self._lock = threading.Lock()

    # --- files ---------------------------------------------------------------------------

    def locate(self, path: str) -> Path:
        """Where a path of the machine really lies, links on the way and at its end followed.

        Raises:
            Unknown: links that go in a circle.
        """
        if self.root is None:
            return Path(path)
        pending = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        found: list[str] = []
        links = 0
        while pending:
            part = pending.pop()
            if part == "..":
                del found[-1:]
                continue
            here = self.root.joinpath(*found, part)
            try:
                target = os.readlink(here)
            except OSError:
                found.append(part)
                continue
            links += 1
            if links > LINK_LIMIT:
                raise Unknown(f"{path}: too many links")
            if target.startswith("/"):
                found.clear()
            pending.extend(p for p in reversed(target.split("/")) if p not in ("", "."))
        return self.root.joinpath(*found)

    def real(self, path: str) -> str:
        """The same path with every link followed, as the machine itself would name it."""
        if self.root is None:
            return os.path.realpath(path)
        return "/" + "/".join(self.locate(path).relative_to(self.root).parts)

    def exists(self, path: str) -> bool:
        """Whether something lies there, of whatever kind."""
        try:
            return self.locate(path).exists()
        except (OSError, Unknown, ValueError):
            return False

    def is_dir(self, path: str) -> bool:
        """Whether a folder lies there."""
        try:
            return self.locate(path).is_dir()
        except (OSError, Unknown, ValueError):
            return False

    def is_file(self, path: str) -> bool:
        """Whether a regular file lies there."""
        try:
            return self.locate(path).is_file()
        except (OSError, Unknown, ValueError):
            return False

    def names(self, path: str) -> list[str]:
        """Names in a folder, sorted; empty where there is no such folder.

        Raises:
            Unknown: the folder is there and cannot be read.
        """
        try:
            return sorted(os.listdir(self.locate(path)))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (OSError, ValueError) as error:
            raise Unknown(f"{path}: {getattr(error, 'strerror', None) or error}") from error

    def glob(self, folder: str, prefix: str = "", suffix: str = "") -> list[str]:
        """Paths in a folder whose names begin and end so."""
        names = self.names(folder)
        return [
            f"{folder.rstrip('/')}/{name}"
            for name in names
            if name.startswith(prefix) and name.endswith(suffix)
        ]

    def bytes(self, path: str, limit: int = FILE_LIMIT) -> bytes | None:
        """The first `limit` bytes of a file; None where there is none.

        Raises:
            Unknown: it is there and cannot be read, or is no file (a pipe would block for ever).
        """
        try:
            place = self.locate(path)
            if not stat.S_ISREG(place.stat().st_mode):
                raise Unknown(f"{path} is no file")
            with place.open("rb", buffering=0) as file:
                # in steps: some files of /proc and /sys refuse a large buffer with ENOMEM
                steps = iter(lambda: file.read(READ_STEP), b"")
                return b"".join(itertools.islice(steps, -(-limit // READ_STEP)))[:limit]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise Unknown(f"{path}: {getattr(error, 'strerror', None) or error}") from error

    def text(self, path: str, limit: int = FILE_LIMIT) -> str | None:
        """The same as text; bytes that are no UTF-8 become U+FFFD."""
        data = self.bytes(path, limit)
        return None if data is None else data.decode("utf-8", "replace")

    @contextlib.contextmanager
    def opened(self, path: str) -> Iterator[FileReader]:
        """A large file to look into; only what is looked at is read.

        Raises:
            Unknown: absent, empty, unreadable, or no file.
        """
        try:
            place = self.locate(path)
            if not place.is_file():
                raise Unknown(f"{path} is no file")
            descriptor = os.open(place, os.O_RDONLY)
        except (OSError, ValueError) as error:
            raise Unknown(f"{path}: {getattr(error, 'strerror', None) or error}") from error
        try:
            reader = FileReader(descriptor)
            if not len(reader):
                raise Unknown(f"{path} is empty")
            yield reader
        except OSError as error:
            raise Unknown(f"{path}: {error.strerror or error}") from error
        finally:
            os.close(descriptor)

    def size(self, path: str) -> int | None:
        """Size of a file in bytes; None where there is none."""
        status = self._stat(path)
        return None if status is None else status.st_size

    def mtime(self, path: str) -> float | None:
        """Time of its last change, in seconds of the epoch."""
        status = self._stat(path)
        return None if status is None else status.st_mtime

    def _stat(self, path: str) -> os.stat_result | None:
        try:
            return self.locate(path).stat()
        except (OSError, Unknown, ValueError):
            return None

    def may(self, path: str, mode: int) -> bool | None:
        """Whether this user may open it (os.R_OK, os.W_OK); None below a root: owners mean nothing."""
        return os.access(path, mode) if self.live else None

    def space(self, path: str) -> tuple[int, int]:
        """Total and free bytes of the file system that holds a path or its nearest parent.

        Raises:
            Unknown: below a root, where it would be the host's.
        """
        if not self.live:
            raise Unknown("a tree below --root has no file system of its own")
        place = Path(path)
        while not place.exists() and place != place.parent:
            place = place.parent
        try:
            disk = os.statvfs(place)
        except OSError as error:
            raise Unknown(f"{path}: {error.strerror}") from error
        return disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize

    # --- programs ------------------------------------------------------------------------

    def which(self, name: str) -> str | None:
        """Path of a program, as a shell on the machine would find it."""
        path = self.env.get("PATH", HOST_PATH)
        for folder in path.split(":") if self.live else ROOT_PROGRAM_FOLDERS:
            program = f"{folder}/{name}"
            if folder and self.is_file(program) and os.access(self.locate(program), os.X_OK):
                return program
        return None

    def start(
        self, arguments: Sequence[str], seconds: float | None = None
    ) -> Background[Completed]:
        """Begin to run a program; the same arguments run only once.

        The result raises `Unknown` where the program is absent, hangs or cannot be started.

        Args:
            seconds: a limit of its own, for what is known to take long; else all programs share one.
        """
        key = tuple(arguments)
        with self._lock:
            if key not in self._runs:
                self._runs[key] = Background(lambda: self._run(key, seconds), f"program {key[0]}")
            return self._runs[key]

    def run(self, arguments: Sequence[str]) -> Completed:
        """Run a program, named by itself or by a path of the machine, and wait for its end.

        Raises:
            Unknown: it is absent, hangs or cannot be started, or programs are not run here.
        """
        return self.start(arguments).result()

    def output(self, arguments: Sequence[str]) -> str:
        """What a program printed.

        Raises:
            Unknown: as `run`, and where it failed or printed bytes that are no text.
        """
        done = self.run(arguments)
        if done.status != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            reason = f": {said[0][:200]}" if said else ""
            raise Unknown(f"{arguments[0]} ended with status {done.status}{reason}")
        if "\0" in done.stdout or done.stdout.count("\ufffd") > 8:
            raise Unknown(f"{arguments[0]} printed bytes that are no text")
        return done.stdout

    def _run(self, arguments: tuple[str, ...], seconds: float | None) -> Completed:
        name = arguments[0]
        path = name if "/" in name else self.which(name)
        if path is None:
            raise Unknown(f"{name} is not installed")
        if not self.runs:
            raise Unknown(NOT_RUN)
        left = seconds or min(self.deadline - time.monotonic(), PROGRAM_SECONDS)
        if left <= 0:
            raise Unknown(f"{name} was not started: no time was left")
        command = [str(self.locate(path)), *arguments[1:]]
        process = self._started(command, name)
        try:
            return collect(process, name, left)
        finally:
            with self._lock:
                self._running.discard(process)

    def _started(self, command: list[str], name: str) -> Running:
        """A program at work, which `close` knows of from its first moment."""
        with self._lock:
            if self._closed:
                raise Unknown(f"{name} was not started: we are about to end")
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=self.program_environment(),
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise Unknown(f"{name} cannot be started: {reason}") from error
            self._running.add(process)
            return process

    def program_environment(self) -> dict[str, str]:
        """What programs get: the machine's environment with messages in English.

        Below a root they are the tree's programs on this machine's loader and shell, so paths of
        the tree that steer a loader or an interpreter are kept from them.
        """
        env = dict(self.env) | {"LC_ALL": "C", "LANG": "C", "LANGUAGE": "C"}
        if not self.live:
            env = {k: v for k, v in env.items() if not k.startswith(("LD_", "PYTHON", "DYLD_"))}
            env["PATH"] = HOST_PATH
        return env

    # --- environment ---------------------------------------------------------------------

    def _root_environment(self) -> dict[str, str]:
        """KEY=VALUE lines of the tree's /etc/environment, quotes around a value taken off."""
        try:
            text = self.text("/etc/environment") or ""
        except Unknown:
            return {}
        env = {}
        for line in text.splitlines():
            key, equals, value = line.strip().removeprefix("export ").partition("=")
            if equals and key.replace("_", "a").isalnum() and not key[0].isdigit():
                if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
                    value = value[1:-1]
                env[key] = value
        return env

    def list_variable(self, name: str) -> list[str]:
        """Entries of a variable that holds a list of paths; empty entries are left out."""
        return [entry for entry in self.env.get(name, "").split(":") if entry]

    def home(self) -> str | None:
        """The user's home folder."""
        return self.env.get("HOME") or (str(Path.home()) if self.live else None)

    def close(self) -> None:
        """End programs that still run: an interrupted `--deep` must not go on holding a GPU."""
        with self._lock:
            self._closed = True
            for process in self._running:
                _kill(process)


def collect(process: Running, name: str, seconds: float) -> Completed:
    """Read both streams until the program ends; whatever ends this function early ends it, too.

    A child that outlives the program and keeps its streams open is not waited for.

    Raises:
        Unknown: it takes longer, or says more than a program does.
    """
    with process:
        try:
            return _collect(process, name, seconds)
        except BaseException:
            _kill(process)
            raise


def _collect(process: Running, name: str, seconds: float) -> Completed:
    assert process.stdout is not None and process.stderr is not None
    end = time.monotonic() + seconds
    chunks: dict[int, list[bytes]] = {process.stdout.fileno(): [], process.stderr.fileno(): []}
    total = 0
    with selectors.DefaultSelector() as selector:
        for descriptor in chunks:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            left = end - time.monotonic()
            if left <= 0:
                raise Unknown(f"{name} gave no answer within {seconds:.0f} s")
            for key, _ in selector.select(min(left, 0.2)):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fd)
                chunks[key.fd].append(data)
                total += len(data)
            if total > OUTPUT_LIMIT:
                raise Unknown(f"{name} printed more than {memory(OUTPUT_LIMIT >> 20)}")
            if process.poll() is not None and not selector.select(0):
                break
    try:
        status = process.wait(max(0.05, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise Unknown(f"{name} gave no answer within {seconds:.0f} s") from None
    out, err = (b"".join(parts).decode("utf-8", "replace") for parts in chunks.values())
    return Completed(status, out, err)


def _kill(process: Running) -> None:
    """End a program and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()

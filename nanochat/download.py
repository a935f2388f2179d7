"""Files over HTTP, several at a time: resumed, checked, and under their names only when they are whole.

What came so far lies in `NAME.part`, and what it is the beginning of in `NAME.part.json`; so a download that
was killed continues where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import requests

from nanochat.errors import NanochatError
from nanochat.files import atomic
from nanochat.lock import locked
from nanochat.progress import Meter

CHUNK = 1 << 16
"""Bytes; what a broken connection loses at most of what came."""
LOCK = ".download.lock"

Check = Callable[[Path], "str | None"]
"""What is wrong with the contents of a file, as the rest of a sentence, or None."""
Say = Callable[[str], None]

_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Answers that may be another one in a moment (RFC 9110, section 15; RFC 6585, section 4)."""
_ADVICE = {
    401: "this needs a token; set HF_TOKEN",
    403: "the server refuses; check the token in HF_TOKEN and whether it may read this",
    404: "there is no such file; check the name and HF_ENDPOINT",
    407: "the proxy wants a login; check HTTPS_PROXY",
}
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_SHA256 = re.compile(r'"?([0-9a-f]{64})"?')


@dataclass(frozen=True)
class Remote:
    """A file to fetch and where it goes; `headers` go to the host of `url` only."""

    url: str
    target: Path
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Patience:
    """When to try again: after `base` ** n seconds at the n-th failure in a row; seconds throughout."""

    attempts: int = 5
    base: float = 2.0
    connect: float = 10.0
    read: float = 30.0
    longest: float = 120.0
    """The longest wait that a server may ask for with Retry-After."""


def download(
    remotes: Sequence[Remote],
    *,
    check: Check = lambda path: None,
    workers: int = 4,
    patience: Patience | None = None,
    say: Say = lambda line: None,
    what: str = "fetching",
) -> int:
    """Fetch the files that are not there yet, and say how many these were.

    A file that is there and passes `check` is left alone. Two processes that use one folder take turns.
    An attempt counts as failed only if it brought nothing new.

    Raises:
        NanochatError: a file cannot be had; the others stop too, and what came of each is kept to continue.
    """
    with ExitStack() as stack:
        for folder in sorted({remote.target.parent for remote in remotes}):
            stack.enter_context(
                locked(folder / LOCK, partial(say, f"waiting for another process in {folder}"))
            )
        absent = [remote for remote in remotes if not _whole(remote.target, check)]
        if absent:
            with Meter(what, len(absent), say) as meter:
                _Fetcher(check, patience or Patience(), meter).run(absent, workers)
        return len(absent)


def _whole(path: Path, check: Check) -> bool:
    return path.is_file() and check(path) is None


# --- what may go wrong


class _Passing(Exception):
    """A failure after which another attempt makes sense, at the earliest after `wait` seconds."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


class _Stopped(Exception):
    """Another file failed, so this one need not go on."""


def _judge(response: requests.Response, remote: Remote, longest: float) -> None:
    """Raise unless the answer carries data or is 416, which only the caller can understand."""
    status = response.status_code
    if status in (200, 206):
        kind = response.headers.get("Content-Type", "")
        if "text/html" in kind and remote.target.suffix not in (".html", ".htm"):
            raise NanochatError(
                f"{remote.url} answers with a web page instead of the file; check HF_ENDPOINT and the proxy, "
                f"or log in to this network"
            )
    elif status in _PASSING:
        wait = _retry_after(response.headers.get("Retry-After", ""))
        raise _Passing(f"the server answers {status} {response.reason}", min(wait, longest))
    elif status != 416:
        advice = _ADVICE.get(status, "check the address")
        raise NanochatError(f"{remote.url} answers {status} {response.reason}; {advice}")


def _retry_after(value: str) -> float:
    """Seconds, from a number of seconds or a date (RFC 9110, section 10.2.3); 0 if it says nothing."""
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _network(error: requests.RequestException, remote: Remote, patience: Patience) -> Exception:
    """A failure of the network in our words."""
    host = urlsplit(remote.url).netloc
    if isinstance(error, requests.exceptions.SSLError):
        return NanochatError(
            f"the certificate of {host} cannot be verified; check the clock, the proxy and REQUESTS_CA_BUNDLE"
        )
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return _Passing(f"{host} does not answer within {patience.connect:g} s")
    if isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error).lower():
        return _Passing(f"{host} sent nothing for {patience.read:g} s")
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return _Passing("the connection broke")
    if isinstance(error, requests.exceptions.ConnectionError):
        return _Passing(f"there is no connection to {host}")
    return NanochatError(f"{remote.url} cannot be fetched: {error}; check the address")


def _unwritable(path: Path, error: OSError) -> NanochatError:
    return NanochatError(
        f"{path} cannot be written: {error.strerror or error}; see to that and run the same command again, "
        f"which continues here"
    )


# --- the beginning of a file


@dataclass(frozen=True)
class _Note:
    """What a `.part` is the beginning of."""

    url: str
    validator: str | None
    """For If-Range: a strong ETag, or else the date of the last change (RFC 9110, section 13.1.5)."""
    total: int | None
    sha256: str | None

    @classmethod
    def of(cls, response: requests.Response, url: str) -> _Note:
        headers = response.headers
        if headers.get("Content-Encoding", "identity") != "identity":
            return cls(url, None, None, None)  # packed on the way: no byte can be told by its place
        tag = headers.get("ETag", "")
        validator = tag if tag.startswith('"') else headers.get("Last-Modified")
        length = headers.get("Content-Length", "")
        # Hugging Face tells the SHA-256 of a file in the answer that redirects to where it lies.
        linked = (
            _SHA256.fullmatch(hop.headers.get("X-Linked-Etag", "")) for hop in response.history
        )
        digest = next((match[1] for match in linked if match), None)
        return cls(url, validator, int(length) if length.isdigit() else None, digest)

    def agrees(self, total: int | None, tag: str | None) -> bool:
        """Whether an answer about a part of a file can be about this one, as far as both sides tell."""
        tagged = tag and self.validator and self.validator.startswith('"')
        return (not tagged or tag == self.validator) and (
            total == self.total or None in (total, self.total)
        )


class _Part:
    """The bytes that came so far, on the disk."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + ".part")
        self._note_path = target.with_name(target.name + ".part.json")
        self.note = self._read_note()
        if self.note is None:
            self.discard()

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def share(self) -> float:
        """Of the whole, as far as that is known."""
        total = self.note.total if self.note else None
        return self.size / total if total else 0.0

    def resumable(self, url: str) -> bool:
        """Whether a server can be asked for the rest without the risk of joining two files."""
        note = self.note
        return bool(
            note and note.url == url and (note.validator or note.total is not None) and self.size
        )

    def begin(self, note: _Note) -> None:
        """Start anew; the note comes first, so that no byte ever lies beside another file's note."""
        self.discard()
        with atomic(self._note_path, "w") as file:
            json.dump(asdict(note), file)
        self.note = note

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note_path.unlink(missing_ok=True)
        self.note = None

    def finish(self, target: Path) -> None:
        os.replace(self.path, target)
        self._note_path.unlink(missing_ok=True)

    def _read_note(self) -> _Note | None:
        try:
            return _Note(**json.loads(self._note_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


# --- fetching


class _Fetcher:
    def __init__(self, check: Check, patience: Patience, meter: Meter) -> None:
        self._check, self._patience, self._meter = check, patience, meter
        self._stop = threading.Event()

    def run(self, remotes: Sequence[Remote], workers: int) -> None:
        """Fetch all; the first failure ends the others.

        The threads are daemons of our own: with a pool Ctrl-C would wait for the slowest server.
        """
        todo: queue.SimpleQueue[Remote] = queue.SimpleQueue()
        done: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        for remote in remotes:
            todo.put(remote)
        threads = [
            threading.Thread(target=self._work, args=(todo, done), daemon=True)
            for _ in range(min(workers, len(remotes)))
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in remotes:
                if error := done.get():
                    self._stop.set()
                    for thread in threads:
                        thread.join()
                    raise error
        finally:
            self._stop.set()

    def _work(
        self, todo: queue.SimpleQueue[Remote], done: queue.SimpleQueue[Exception | None]
    ) -> None:
        while not self._stop.is_set():
            try:
                remote = todo.get_nowait()
            except queue.Empty:
                return
            done.put(self._failure(remote))

    def _failure(self, remote: Remote) -> Exception | None:
        try:
            self._fetch(remote)
        except _Stopped:
            pass
        except OSError as error:  # of the disk: those of the network have other names by now
            return _unwritable(remote.target, error)
        except Exception as error:
            return error
        return None

    def _fetch(self, remote: Remote) -> None:
        """One file, with as many attempts as patience allows without progress."""
        part = _Part(remote.target)
        most = part.size
        failures = 0
        while True:
            try:
                self._receive(remote, part)
                self._accept(remote, part)
                return
            except _Passing as trouble:
                failures = 1 if part.size > most else failures + 1
                most = max(most, part.size)
                if failures >= self._patience.attempts:
                    raise NanochatError(
                        f"{remote.url} cannot be fetched: {trouble}, {failures} times in a row; run the same "
                        f"command later, which continues here"
                    ) from trouble
                if self._stop.wait(max(self._patience.base**failures, trouble.wait)):
                    raise _Stopped from None

    def _receive(self, remote: Remote, part: _Part) -> None:
        """Ask for what is missing and append it."""
        # Never compressed on the way: lengths and ranges are those of the file itself.
        headers = {**remote.headers, "Accept-Encoding": "identity"}
        if part.resumable(remote.url) and part.note:
            headers["Range"] = f"bytes={part.size}-"
            if part.note.validator:
                headers["If-Range"] = part.note.validator
        timeout = (self._patience.connect, self._patience.read)
        try:
            with requests.get(
                remote.url, headers=headers, stream=True, timeout=timeout
            ) as response:
                _judge(response, remote, self._patience.longest)
                if self._place(response, remote, part):
                    self._append(response, remote, part)
        except requests.RequestException as error:
            raise _network(error, remote, self._patience) from error
        total = part.note.total if part.note else None
        if total is not None and part.size != total:
            raise _Passing(f"{part.size} of {total} bytes came")

    def _place(self, response: requests.Response, remote: Remote, part: _Part) -> bool:
        """Make the end of the part where this answer begins; False if there is nothing to append."""
        if (
            response.status_code == 200
        ):  # nothing was there, or the server knows no ranges, or the file changed
            part.begin(_Note.of(response, remote.url))
            return True
        match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        total = int(match[2]) if match and match[2] != "*" else None
        if match and part.note and part.note.agrees(total, response.headers.get("ETag")):
            if response.status_code == 206 and match[1] == str(part.size):
                return True
            if response.status_code == 416 and part.size == total:
                return False  # it was whole already
        part.discard()
        raise _Passing("the server continues another file than the one that was begun")

    def _append(self, response: requests.Response, remote: Remote, part: _Part) -> None:
        with open(part.path, "ab", buffering=0) as file:  # unbuffered: each piece survives a kill
            for piece in response.iter_content(CHUNK):
                _write_all(file.fileno(), piece)
                self._meter.update(remote.target, len(piece), part.share)
                if self._stop.is_set():
                    raise _Stopped
            os.fsync(file.fileno())

    def _accept(self, remote: Remote, part: _Part) -> None:
        """Give a whole file its name; what fails a check is thrown away."""
        problem = self._check(part.path)
        expected = part.note.sha256 if part.note else None
        if not problem and expected and _sha256(part.path) != expected:
            problem = "has another SHA-256 than the server announced"
        if problem:
            part.discard()
            raise _Passing(f"what came {problem}")
        part.finish(remote.target)
        self._meter.update(remote.target, 0, 1.0)


def _write_all(handle: int, piece: bytes) -> None:
    """All of it: a disk that fills up may take a part and say so only at the next attempt."""
    view = memoryview(piece)
    while view:
        view = view[os.write(handle, view) :]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()

"""Any folder of text becomes shards: documents read, cut where too long, shuffled, one part held out.

The order is that of a keyed hash of each document: as good as a shuffle, the same on every machine, found
with bounded memory; and equal documents meet in it, so that none is both trained on and held out.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import os
import shutil
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from nanochat.errors import NanochatError
from nanochat.shards import (
    CHARS,
    COLUMN,
    VALIDATION,
    Dataset,
    open_folder,
    read_documents,
    write_manifest,
    write_shard,
    write_shards,
)

LONGEST = 8000
"""Characters: about what a row of 2,048 tokens holds."""
SEED = 42
LEAST_HELD_OUT = 200
"""Documents, if that is no more than a tenth of all; or else one in fifty."""

_BUCKETS = 64
_BUFFER = 1 << 18
_RECORD = struct.Struct("<8sI")
_BREAKS = ("\n\n", "\n", ". ", " ")

Say = Callable[[str], None]


# --- reading


@dataclass
class Reading:
    """Reads the documents of a file, or of all files below a folder in the order of their names, and counts.

    Text and Markdown files are a document each; JSON lines, packed or not, and parquet files hold them under
    `text`. Hidden files are left out, files that are not UTF-8 skipped and counted.
    """

    source: Path
    files: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Reason -> how many files or lines."""

    def paths(self) -> list[Path]:
        """The files that will be read, in order.

        Raises:
            NanochatError: there are none.
        """
        found = [self.source] if self.source.is_file() else list(_visible(self.source))
        found = [path for path in found if _reader(path)]
        if not found:
            raise NanochatError(
                f"{self.source} holds no text that can be read; wanted are files that end in "
                f"{', '.join(_READERS)}"
            )
        return sorted(found, key=lambda path: path.relative_to(self.source).parts)

    def __iter__(self) -> Iterator[str]:
        for path in self.paths():
            reader = _reader(path)
            assert reader is not None
            try:
                yield from reader(path, self.skipped)
                self.files += 1
            except UnicodeDecodeError:
                self.skipped["not UTF-8"] += 1
            except (OSError, EOFError, zlib.error) as error:
                self.skipped[f"unreadable ({type(error).__name__})"] += 1

    def summary(self) -> str:
        """`12 files, skipped 1 not UTF-8`"""
        parts = [f"{self.files} files"]
        parts += [f"skipped {number} {reason}" for reason, number in sorted(self.skipped.items())]
        return ", ".join(parts)

    def mark(self) -> str:
        """Changes if a file below the source is added, removed or changed."""
        value = 0
        for path in self.paths():
            facts = path.stat()
            name = path.relative_to(self.source).as_posix()
            value = zlib.crc32(
                repr((name, facts.st_size, facts.st_mtime_ns)).encode("utf-8", "replace"), value
            )
        return f"{value:08x}"


def _visible(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(folder) / name for name in names if not name.startswith("."))
        yield from (path for path in paths if path.is_file())  # and no link that leads nowhere


Reader = Callable[[Path, "Counter[str]"], Iterator[str]]


def _read_text(path: Path, skipped: Counter[str]) -> Iterator[str]:
    # Wholly, since a file that turns out not to be UTF-8 near its end must not have given its beginning.
    text = path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("utf-8")
    yield text.replace("\r\n", "\n")


def _read_lines(path: Path, skipped: Counter[str]) -> Iterator[str]:
    packed = path.suffix == ".gz"
    with gzip.open(path, "rb") if packed else open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
            except UnicodeDecodeError:
                skipped["lines not UTF-8"] += 1
            except ValueError:
                skipped["lines that are no JSON"] += 1
            else:
                yield _text_of(value, f"{path} line {number}")


def _text_of(value: object, where: str) -> str:
    if not isinstance(value, dict):
        raise NanochatError(
            f'{where} is a {type(value).__name__}; wanted are objects like {{"{COLUMN}": "..."}}'
        )
    text = value.get(COLUMN)
    if not isinstance(text, str):
        saw = ", ".join(map(str, value)) or "nothing"
        raise NanochatError(
            f"{where} has no text under the key `{COLUMN}`, it has: {saw}; rename the key that holds the text"
        )
    return text


def _read_parquet(path: Path, skipped: Counter[str]) -> Iterator[str]:
    return read_documents(path)


_READERS: dict[str, Reader] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".jsonl": _read_lines,
    ".jsonl.gz": _read_lines,
    ".parquet": _read_parquet,
}


def _reader(path: Path) -> Reader | None:
    name = path.name.lower()
    return next((reader for ending, reader in _READERS.items() if name.endswith(ending)), None)


def pieces(text: str, longest: int) -> Iterator[str]:
    """A text in pieces of at most `longest` characters, cut after a paragraph, a line, a sentence or a word.

    Nothing is lost but white space at the cuts, and pieces that hold nothing else.
    """
    start = 0
    while start < len(text):
        end = start + longest
        if end < len(text):
            middle = start + longest // 2
            found = (text.rfind(mark, middle, end) + len(mark) for mark in _BREAKS)
            end = next((cut for cut in found if cut > middle), end)
        if piece := text[start:end].strip("\n").rstrip():
            yield piece  # blanks at its beginning are kept: code needs them
        start = end


# --- shuffling


class _Shuffled:
    """Documents on the disk, to be had once, in the order of their hashes and without repetition."""

    def __init__(self, documents: Iterable[str], scratch: Path) -> None:
        self.count = 0
        self.repeated = 0
        scratch.mkdir(parents=True)
        self._paths = [scratch / f"{number:02d}" for number in range(_BUCKETS)]
        with ExitStack() as stack:
            files = [stack.enter_context(open(path, "wb", _BUFFER)) for path in self._paths]
            for text in documents:
                data = text.encode("utf-8", "replace")  # JSON can hold halves of surrogate pairs
                key = hashlib.blake2b(data, digest_size=8, key=str(SEED).encode()).digest()
                files[key[0] * _BUCKETS >> 8].write(_RECORD.pack(key, len(data)) + data)
                self.count += 1

    def __iter__(self) -> Iterator[str]:
        for path in self._paths:
            last = b""
            for _, data in sorted(_records(path.read_bytes())):
                if data == last:
                    self.repeated += 1
                else:
                    yield data.decode("utf-8")
                last = data
            path.unlink()


def _records(contents: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place < len(contents):
        key, length = _RECORD.unpack_from(contents, place)
        place += _RECORD.size + length
        yield key, contents[place - length : place]


# --- building


def build(
    documents: Iterable[str],
    folder: Path,
    *,
    name: str,
    source: str,
    longest: int = LONGEST,
    chars: int = CHARS,
    say: Say = lambda line: None,
) -> Dataset:
    """Make shards of documents, one of them for validation; the folder appears only when all is in it.

    Args:
        source: what the documents are, for the manifest.
        longest: longer documents are cut into pieces of so many characters.
        chars: in a shard for training.

    Raises:
        NanochatError: there are too few documents, the folder exists, or it cannot be written.
    """
    if folder.exists():
        raise NanochatError(f"{folder} exists already; choose another name, or delete it first")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        cut = (piece for text in documents for piece in pieces(text, longest))
        shuffled = _Shuffled(cut, partial / "spool")
        stream = iter(shuffled)
        write_shard(partial / VALIDATION, islice(stream, _held_out(shuffled.count)))
        train = write_shards(stream, partial, chars=chars)
        if not train:
            raise NanochatError(
                f"{source} holds {shuffled.count - shuffled.repeated} document(s) of at most {longest} "
                f"characters, too few to train on some and validate with others; use more text"
            )
        (partial / "spool").rmdir()
        kept = shuffled.count - shuffled.repeated
        write_manifest(
            partial,
            {
                "name": name,
                "source": source,
                "documents": kept,
                "validation": VALIDATION,
                "train": [path.name for path in train],
            },
        )
        os.rename(partial, folder)
    except OSError as error:
        raise NanochatError(
            f"{folder} cannot be written: {error.strerror or error}; make room or choose another folder with "
            f"NANOCHAT_BASE_DIR"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    say(
        f"{folder}: {kept} documents in {len(train)} shards and one for validation"
        + (f", {shuffled.repeated} repetitions left out" if shuffled.repeated else "")
    )
    return open_folder(folder, name=name)


def _held_out(count: int) -> int:
    return max(1, min(max(LEAST_HELD_OUT, count // 50), count // 10))

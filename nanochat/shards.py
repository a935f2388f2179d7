"""Shards: parquet files with one column of documents, and the folders in which they lie.

A shard holds one column, `text`, compressed with zstd, in row groups of 1,024 documents, without dictionary
or statistics. The shard for validation is known by name: further shards never change what is measured.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat import checksums
from nanochat.errors import NanochatError, first_line
from nanochat.files import atomic

COLUMN = "text"
GROUP = 1024
"""Documents in a row group."""
CHARS = 250_000_000
"""Characters after which a shard closes, at the next full row group."""
LEVEL = 3
"""Of zstd."""
MANIFEST = "dataset.json"
VALIDATION = "val.parquet"
COMMAND = "python -m nanochat.dataset"

_MAGIC = b"PAR1"
_TAIL = 8  # length of the footer in four bytes, then the magic
_DISGUISES = {
    b"version https://git-lfs": "a pointer of Git LFS instead of the data",
    b"<": "a web page",
    b"{": "a JSON answer",
}
_HELD_OUT = re.compile(r"(?<![a-z])val(id(ation)?)?(?![a-z])")


@dataclass(frozen=True)
class Dataset:
    """Shards to train on, in order, and the one to validate with."""

    name: str
    folder: Path
    train: tuple[Path, ...]
    validation: Path


@dataclass(frozen=True)
class Shard:
    """A shard that was looked at; its mark tells it from another of the same name."""

    path: Path
    groups: int
    mark: str


def shard_name(number: int) -> str:
    """`shard_00042.parquet`: names sort as numbers do."""
    return f"shard_{number:05d}.parquet"


# --- writing


def write_shards(
    documents: Iterable[str], folder: Path, *, chars: int = CHARS, group: int = GROUP
) -> list[Path]:
    """Write documents as shard_00000.parquet and so on, each appearing only when it is whole.

    A shard closes at the first full row group with at least `chars` characters; only the last may be smaller.

    Raises:
        NanochatError: a shard cannot be written.
    """
    groups = _groups(documents, group)
    paths: list[Path] = []
    for first in groups:
        path = folder / shard_name(len(paths))
        _write(path, _until(chain([first], groups), chars))
        paths.append(path)
    checksums.record(paths)
    return paths


def write_shard(path: Path, documents: Iterable[str], *, group: int = GROUP) -> None:
    """Write all documents into one shard.

    Raises:
        NanochatError: it cannot be written.
    """
    _write(path, _groups(documents, group))
    checksums.record([path])


def _groups(documents: Iterable[str], size: int) -> Iterator[list[str]]:
    stream = iter(documents)
    while texts := list(islice(stream, size)):
        yield texts


def _until(groups: Iterator[list[str]], chars: int) -> Iterator[list[str]]:
    """Groups from the stream until together they have so many characters."""
    total = 0
    for texts in groups:
        yield texts
        total += sum(map(len, texts))
        if total >= chars:
            return


def _write(path: Path, groups: Iterable[list[str]]) -> None:
    schema = pa.schema([(COLUMN, pa.string())])
    with (
        atomic(path) as file,
        pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            compression_level=LEVEL,
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        ) as writer,
    ):
        for texts in groups:
            writer.write_table(pa.table({COLUMN: texts}, schema=schema), row_group_size=len(texts))


# --- reading


def damage(path: Path) -> str | None:
    """What is wrong with a parquet file as a whole, from both of its ends; None if nothing is."""
    try:
        _footer(path)
    except _Damaged as error:
        return str(error)
    return None


def inspect(path: Path, cure: str = f"fetch or make it again with {COMMAND}") -> Shard:
    """Look at a shard without reading its text; `cure` ends the sentence if something is wrong.

    Raises:
        NanochatError: it is missing, cut, no parquet file, or has no column `text`.
    """
    try:
        footer = _footer(path)
        with _parquet(path) as file:
            _require_column(file, path)
            size = path.stat().st_size
            return Shard(path, file.num_row_groups, f"{size}-{zlib.crc32(footer):08x}")
    except _Damaged as error:
        raise NanochatError(f"{path} {error}; {cure}") from error


def read_group(path: Path, index: int) -> list[str]:
    """The documents of one row group; a null is an empty document.

    Raises:
        NanochatError: the file is damaged or has no column `text`.
    """
    try:
        _require_sound(path)
        with _parquet(path) as file:
            _require_column(file, path)
            column = file.read_row_group(index, columns=[COLUMN]).column(0)
            return [text or "" for text in column.to_pylist()]
    except (pa.ArrowException, OSError, UnicodeDecodeError, _Damaged) as error:
        raise NanochatError(
            f"row group {index} of {path} cannot be read: {first_line(error)}; delete the file, then fetch "
            f"or make it again with {COMMAND}"
        ) from error


def read_documents(path: Path, size: int = GROUP) -> Iterator[str]:
    """All documents of a file, `size` at a time in memory, however large its row groups are.

    Raises:
        NanochatError: as `read_group`.
    """
    try:
        _footer(path)
        _require_sound(path)
        with _parquet(path) as file:
            _require_column(file, path)
            for batch in file.iter_batches(size, columns=[COLUMN]):
                yield from (text or "" for text in batch.column(0).to_pylist())
    except _Damaged as error:
        raise NanochatError(f"{path} {error}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise NanochatError(f"{path} cannot be read: {first_line(error)}") from error


class _Damaged(Exception):
    """The rest of a sentence that begins with the file's name."""


def _footer(path: Path) -> bytes:
    """The description at the end of a parquet file, after both ends were checked.

    Layout: "PAR1" ... footer, its length in 4 bytes, "PAR1" (https://parquet.apache.org/docs/file-format/).
    """
    try:
        with open(path, "rb") as file:
            head = file.read(64)
            size = file.seek(0, 2)
            if not head.startswith(_MAGIC):
                raise _Damaged(f"is {_disguise(head)}")
            if size < len(_MAGIC) + _TAIL:
                raise _Damaged(f"is cut after {size} bytes")
            file.seek(-_TAIL, 2)
            tail = file.read(_TAIL)
            length = int.from_bytes(tail[:4], "little")
            if tail[4:] != _MAGIC or length > size - len(_MAGIC) - _TAIL:
                raise _Damaged(f"is cut: its {size} bytes do not end with a footer")
            file.seek(-_TAIL - length, 2)
            return file.read(length)
    except OSError as error:
        raise _Damaged(f"cannot be read: {error.strerror or error}") from error


def _disguise(head: bytes) -> str:
    if not head:
        return "empty"
    found = (what for start, what in _DISGUISES.items() if head.lstrip().startswith(start))
    return next(found, "no parquet file")


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _Damaged(f"cannot be read: {first_line(error)}") from error


def _require_sound(path: Path) -> None:
    try:
        problem = checksums.difference(path)
    except OSError as error:
        raise _Damaged(f"cannot be read: {error.strerror or error}") from error
    if problem:
        raise _Damaged(problem)


def _require_column(file: pq.ParquetFile, path: Path) -> None:
    schema = file.schema_arrow
    if COLUMN not in schema.names:
        raise NanochatError(
            f"{path} has no column `{COLUMN}` but {_listing(schema.names)}; rename the one that "
            f"holds the text"
        )
    kind = schema.field(COLUMN).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise NanochatError(f"column `{COLUMN}` of {path} holds {kind}, but must hold strings")


def _listing(names: list[str], most: int = 8) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:most]) or "none"
    return shown + (" ..." if len(names) > most else "")


# --- folders


def write_manifest(folder: Path, values: dict[str, Any]) -> None:
    """Write dataset.json; `validation` names the shard that is pinned, `train` those that must be there.

    Raises:
        NanochatError: it cannot be written.
    """
    with atomic(folder / MANIFEST, "w") as file:
        cast(Any, file).write(json.dumps(values, indent=1) + "\n")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What `write_manifest` wrote, or None where there is nothing.

    Raises:
        NanochatError: the file is there, but damaged.
    """
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        named = [values["validation"], *values.get("train", [])]
        if not all(isinstance(name, str) for name in named):
            raise TypeError("names must be strings")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NanochatError(
            f"{path} cannot be read: {error!r}; restore it, or delete it to have the last shard by name "
            f"validate"
        ) from error
    return cast("dict[str, Any]", values)


def parquet_files(folder: Path) -> list[Path]:
    """The shards of a folder by name, without hidden files; empty if there is no such folder."""
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))


def open_folder(
    folder: Path, *, name: str = "", validation: str | None = None, cure: str = ""
) -> Dataset:
    """The dataset in a folder.

    The validation shard is, by the first rule that applies: `validation`; what dataset.json names; the first
    file with the word val, valid or validation in its name (none of these is trained on); the last by name.
    `cure` is what an error tells to do about missing shards.

    Raises:
        NanochatError: shards are missing.
    """
    files = parquet_files(folder)
    manifest = read_manifest(folder) if validation is None else None
    cure = cure or f"make shards with {COMMAND} --source FOLDER"
    if manifest:
        validation = manifest["validation"]
        missing = sorted(set(manifest.get("train", [])) - {path.name for path in files})
        if missing:
            raise NanochatError(f"{folder} lacks {_listing(missing)} of its {MANIFEST}; {cure}")
    if validation is None:
        held_out = [path for path in files if _HELD_OUT.search(path.stem.lower())] or files[-1:]
    else:
        held_out = [path for path in files if path.name == validation]
        if not held_out:
            raise NanochatError(f"{folder} lacks {validation}, the shard for validation; {cure}")
    train = tuple(path for path in files if path not in held_out)
    if not files:
        raise NanochatError(f"{folder} holds no shards; {cure}")
    if not train:
        raise NanochatError(
            f"{folder} holds {_listing([path.name for path in files])} only, but training and validation "
            f"need a shard each; {cure}"
        )
    return Dataset(name or folder.name, folder, train, held_out[0])

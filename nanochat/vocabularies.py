"""Other people's vocabularies, where their files are on this disk already; nothing is ever fetched."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat import bpe
from nanochat.errors import NanochatError

if TYPE_CHECKING:
    import rustbpe

CACHE_VARIABLES = ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")
"""Where tiktoken keeps what it fetched, under the SHA-1 of the address; in this order, as it does."""

CACHE_FOLDER = "data-gym-cache"
"""In the folder for temporary files, where neither variable is set."""

HF_NAME = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file that holds a vocabulary: its address in tiktoken's cache, its usual names, how it is read."""

    url: str
    names: tuple[str, ...]
    ranks: Callable[[bytes], dict[bytes, int]]


@dataclass(frozen=True, kw_only=True)
class Known:
    """A published vocabulary: the files that hold it, any of which will do, and its pattern in rustbpe."""

    name: str
    pattern: str
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary that was found."""

    name: str
    core: rustbpe.Tokenizer


def _tiktoken_ranks(contents: bytes) -> dict[bytes, int]:
    """Lines of a token in base64, a blank, its id."""
    pairs = (line.split() for line in contents.splitlines() if line)
    return {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}


def _merge_ranks(contents: bytes) -> dict[bytes, int]:
    """GPT-2's own list of merges: a heading, then lines of two tokens, whose bytes are spelled as letters.

    The ids of the 256 bytes follow that spelling: first those that are visible letters themselves.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    letters = [*map(chr, visible), *(chr(256 + i) for i in range(len(hidden)))]
    byte_of = dict(zip(letters, [*visible, *hidden], strict=True))
    ranks = {bytes([byte]): rank for rank, byte in enumerate([*visible, *hidden])}
    for line in contents.decode("utf-8").splitlines():
        if line and not line.startswith("#version"):
            left, right = line.split()
            ranks[bytes(byte_of[letter] for letter in left + right)] = len(ranks)
    return ranks


_BLOBS = "https://openaipublic.blob.core.windows.net"
KNOWN = (
    Known(
        name="gpt2",
        pattern="GPT2_PATTERN",
        sources=(
            Source(
                url=f"{_BLOBS}/encodings/r50k_base.tiktoken",
                names=("gpt2.tiktoken", "r50k_base.tiktoken"),
                ranks=_tiktoken_ranks,
            ),
            Source(
                url=f"{_BLOBS}/gpt-2/encodings/main/vocab.bpe",
                names=("vocab.bpe", "merges.txt"),
                ranks=_merge_ranks,
            ),
        ),
    ),
    Known(
        name="cl100k_base",
        pattern="GPT4_PATTERN",
        sources=(
            Source(
                url=f"{_BLOBS}/encodings/cl100k_base.tiktoken",
                names=("cl100k_base.tiktoken",),
                ranks=_tiktoken_ranks,
            ),
        ),
    ),
)
"""The vocabularies of GPT-2 and of GPT-4; r50k_base is GPT-2's without its special token."""


def find(folder: Path | None, say: Callable[[str], object]) -> Iterator[Vocabulary]:
    """The vocabularies that are in `folder` or in tiktoken's cache; `say` hears of those that are not.

    A `tokenizer.json` in the folder counts too, whatever it holds.

    Raises:
        NanochatError: the folder does not exist, or a file is damaged.
    """
    if folder is not None and not folder.is_dir():
        raise NanochatError(f"{folder} is no folder; name one that holds vocabularies")
    for known in KNOWN:
        if (found := _locate(known, folder)) is None:
            names = " or ".join(name for source in known.sources for name in source.names)
            say(
                f"{known.name} is not on this disk and is left out; put {names} into a folder and name it "
                "with --vocab-dir"
            )
            continue
        path, source = found
        yield Vocabulary(known.name, _read(path, partial(_build, known, source)))
    if folder is not None and (path := folder / HF_NAME).is_file():
        yield Vocabulary(folder.resolve().name, _read(path, _build_hf))


def _locate(known: Known, folder: Path | None) -> tuple[Path, Source] | None:
    places = _cache_folders()
    for source in known.sources:
        paths = [folder / name for name in source.names] if folder else []
        paths += [place / hashlib.sha1(source.url.encode()).hexdigest() for place in places]
        for path in paths:
            if path.is_file():
                return path, source
    return None


def _cache_folders() -> Sequence[Path]:
    for variable in CACHE_VARIABLES:
        if variable in os.environ:
            # Empty means that nothing is to be kept.
            return [Path(os.environ[variable])] if os.environ[variable] else []
    return [Path(tempfile.gettempdir()) / CACHE_FOLDER]


def _build(known: Known, source: Source, contents: bytes) -> rustbpe.Tokenizer:
    module = bpe.module()
    made: rustbpe.Tokenizer = module.Tokenizer.from_tiktoken(
        source.ranks(contents), getattr(module, known.pattern)
    )
    return made


def _build_hf(contents: bytes) -> rustbpe.Tokenizer:
    made: rustbpe.Tokenizer = bpe.module().Tokenizer.from_hf_json(contents.decode("utf-8"))
    return made


def _read(path: Path, build: Callable[[bytes], rustbpe.Tokenizer]) -> rustbpe.Tokenizer:
    try:
        return build(path.read_bytes())
    except (OSError, ValueError, KeyError) as error:
        raise NanochatError(
            f"{path} holds no vocabulary that can be read: {error}; delete it or bring a sound copy"
        ) from error

"""Our tokenizer's interface on two published packages, for machines on which the crate cannot be built.

`rustbpe` of the Python index learns the merges, `tiktoken` encodes. Merges, ids and files are those of our own
crate (tests/nanochat/test_nc_published_bpe.py); training and encoding take several times as long.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.errors import NanochatError
from nanochat.files import atomic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NANOCHAT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
    r"|\s+(?!\S)|\s+"
)
GPT4_PATTERN = NANOCHAT_PATTERN.replace("{1,2}", "{1,3}")
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""As in rustbpe/src/split.rs."""

MAGIC = b"rustbpe tokenizer "
VERSION = "1"
BUFFER = 8192
"""Texts between two words about progress."""

Progress = Callable[[str, int, int | None], object]


class Tokenizer:
    """As `Tokenizer` of our crate, as far as training, scripts and chat use it."""

    def __init__(self) -> None:
        self._set({}, "", {})

    # --- made -----------------------------------------------------------------------------

    def train_from_iterator(
        self,
        iterator: Iterable[str],
        vocab_size: int,
        *,
        pattern: str = GPT4_PATTERN,
        special_tokens: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> None:
        """Learn merges, and replace what this tokenizer was.

        Raises:
            ValueError: there is no text, or it is no Unicode.
        """
        import rustbpe

        counted = _Counted(iterator, progress)
        trained = rustbpe.Tokenizer()
        trained.train_from_iterator(
            iter(counted), vocab_size - len(special_tokens), pattern=pattern
        )
        if not counted.characters:
            raise ValueError("there is no text to train on")
        ranks = {bytes(token): int(rank) for token, rank in trained.get_mergeable_ranks()}
        if progress:
            progress("merge", len(ranks) - 256, len(ranks) - 256)
        specials = {name: len(ranks) + number for number, name in enumerate(special_tokens)}
        self._set(ranks, pattern, specials)

    @staticmethod
    def from_tiktoken(
        mergeable_ranks: Mapping[bytes, int],
        pattern: str,
        special_tokens: Mapping[str, int] | None = None,
    ) -> Tokenizer:
        """A tokenizer from ranks.

        Raises:
            ValueError: a byte has no rank, or an id comes twice.
        """
        specials = dict(special_tokens or {})
        ids = [*mergeable_ranks.values(), *specials.values()]
        if any(bytes([byte]) not in mergeable_ranks for byte in range(256)):
            raise ValueError("a byte has no id")
        if len(set(ids)) != len(ids) or min(ids) < 0:
            raise ValueError("an id comes twice or is negative")
        made = Tokenizer()
        made._set(dict(mergeable_ranks), pattern, specials)
        return made

    @staticmethod
    def from_hf_json(text: str) -> Tokenizer:
        """Not here: it takes our own crate.

        Raises:
            NanochatError: always.
        """
        raise _only_ours("reading a tokenizer.json")

    def _set(self, ranks: dict[bytes, int], pattern: str, specials: dict[str, int]) -> None:
        self._ranks, self._pattern, self._specials = ranks, pattern, specials
        self._bytes = {rank: token for token, rank in ranks.items()}
        self._bytes |= {number: name.encode() for name, number in specials.items()}
        self._encoding = self._new_encoding() if ranks else None

    def _new_encoding(self) -> Any:
        import tiktoken

        try:
            return tiktoken.Encoding("nanochat", **self.to_tiktoken())
        except (KeyError, AssertionError) as error:
            raise ValueError(f"tiktoken refuses it: {error}") from error

    # --- what it is -----------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self._bytes, default=-1) + 1

    @property
    def special_tokens(self) -> dict[str, int]:
        """Special tokens with their ids."""
        return dict(self._specials)

    def token_byte_lengths(self) -> NDArray[np.int32]:
        """Bytes of text of each id, 0 for special tokens."""
        import numpy as np

        lengths = np.zeros(self.vocab_size, np.int32)
        for token, rank in self._ranks.items():
            lengths[rank] = len(token)
        return lengths

    def to_tiktoken(self) -> dict[str, Any]:
        """The keyword arguments, but for the name, of an equal tiktoken.Encoding."""
        return {
            "pat_str": self._pattern,
            "mergeable_ranks": self._ranks,
            "special_tokens": self._specials,
        }

    def to_hf_json(self) -> str:
        """Not here: it takes our own crate.

        Raises:
            NanochatError: always.
        """
        raise _only_ours("writing a tokenizer.json")

    # --- ids ------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """The ids of a text; special tokens in it are ordinary text."""
        return self.batch_encode([text], 1)[0]

    def batch_encode(self, texts: Sequence[str], threads: int | None = None) -> list[list[int]]:
        """The ids of each text."""
        if self._encoding is None:
            raise ValueError("this tokenizer is not trained")
        threads = min(threads or os.cpu_count() or 1, len(texts)) or 1
        found: list[list[int]]
        try:
            if threads == 1:
                return [self._encoding.encode_ordinary(text) for text in texts]
            found = self._encoding.encode_ordinary_batch(list(texts), num_threads=threads)
        except BaseException as error:
            # no Exception, and of no module that could be imported
            if type(error).__name__ != "PanicException":
                raise
            raise NanochatError(
                f"tiktoken gives up on a text ({error}), as on one with a million blanks in a row; leave it out, or "
                "encode with our own crate: 'nanochat-doctor build-rustbpe' where Rust can be had"
            ) from None
        return found

    def batch_encode_to_numpy(
        self, texts: Sequence[str], threads: int | None = None, prepend: int | None = None
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The ids of all texts in one array, and where each text's ids start."""
        import numpy as np

        first = [] if prepend is None else [prepend]
        parts = [[*first, *ids] for ids in self.batch_encode(texts, threads)]
        offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        kind = np.uint16 if self.vocab_size <= 1 << 16 else np.uint32
        joined = np.fromiter((number for part in parts for number in part), kind, int(offsets[-1]))
        return joined, offsets

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids.

        Raises:
            ValueError: an id has no token.
        """
        try:
            return b"".join(self._bytes[int(number)] for number in ids)
        except KeyError as error:
            raise ValueError(f"no token has the id {error}") from None

    def decode(self, ids: Iterable[int], *, errors: str = "strict") -> str:
        """The text of ids."""
        return self.decode_bytes(ids).decode("utf-8", errors)

    # --- files ----------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """What `save` writes: the format of rustbpe/src/file.rs."""
        lines = [f"{MAGIC.decode()}{VERSION}", f"pattern {_json(self._pattern)}"]
        lines.append(f"tokens {len(self._ranks)}")
        by_id = sorted(self._ranks.items(), key=lambda item: item[1])
        lines += [f"{token.hex()} {rank}" for token, rank in by_id]
        lines.append(f"special_tokens {len(self._specials)}")
        specials = sorted(self._specials.items(), key=lambda item: item[1])
        lines += [f"{_json(name)} {number}" for name, number in specials]
        body = ("\n".join(lines) + "\n").encode()
        return body + f"crc32 {zlib.crc32(body):08x}\n".encode()

    @staticmethod
    def from_bytes(contents: bytes) -> Tokenizer:
        """A tokenizer from what `to_bytes` gave.

        Raises:
            ValueError: it is something else, damaged, or of a newer kind.
        """
        if not contents.startswith(MAGIC):
            raise ValueError("not a rustbpe tokenizer file: its first line is another")
        body, mark, checksum = contents.rpartition(b"crc32 ")
        if not mark or checksum.lower() != f"{zlib.crc32(body):08x}\n".encode():
            raise ValueError("damaged tokenizer file: its end or its checksum is wrong")
        lines = iter(body.decode().splitlines())
        if (version := next(lines).removeprefix(MAGIC.decode())) != VERSION:
            raise ValueError(
                f"tokenizer file of version {version!r}; this one reads version {VERSION}"
            )
        try:
            pattern = json.loads(next(lines).removeprefix("pattern "))
            ranks = dict(_entries(lines, "tokens ", bytes.fromhex))
            specials = dict(_entries(lines, "special_tokens ", json.loads))
        except (StopIteration, ValueError) as error:
            raise ValueError(f"damaged tokenizer file: {error or 'a line is missing'}") from None
        return Tokenizer.from_tiktoken(ranks, pattern, specials)

    @staticmethod
    def load(path: Path) -> Tokenizer:
        """Read a file that `save` or our crate wrote."""
        return Tokenizer.from_bytes(Path(path).read_bytes())

    def save(self, path: Path) -> None:
        """Write this tokenizer to one file, with a checksum."""
        with atomic(Path(path)) as file:
            file.write(self.to_bytes())


class _Counted:
    """Texts on their way to the trainer; counts characters, and tells of texts now and then."""

    def __init__(self, texts: Iterable[str], progress: Progress | None) -> None:
        self._texts, self._progress = texts, progress
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        number = 0
        for number, text in enumerate(self._texts, 1):
            text.encode()  # what UTF-8 cannot spell is said here rather than in the middle of Rust
            self.characters += len(text)
            yield text
            if self._progress and number % BUFFER == 0:
                self._progress("count", number, None)
        if self._progress:
            self._progress("count", number, None)


def _entries(lines: Iterator[str], head: str, parse: Callable[[str], Any]) -> Iterator[Any]:
    """A number behind `head`, and so many lines of a name and an id."""
    for _ in range(int(next(lines).removeprefix(head))):
        name, _, number = next(lines).rpartition(" ")
        yield parse(name), int(number)


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _only_ours(what: str) -> NanochatError:
    return NanochatError(
        f"{what} takes nanochat-rustbpe, and the published rustbpe is installed; replace it with "
        "'nanochat-doctor build-rustbpe' where Rust can be had"
    )

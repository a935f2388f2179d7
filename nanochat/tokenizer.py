"""Text to token ids and back: a byte-level BPE with the nine special tokens of a conversation."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat import bpe
from nanochat.errors import NanochatError, WrongUsage
from nanochat.files import atomic, base_dir, crc32

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    import rustbpe

BOS = "<|bos|>"
SPECIALS = (
    BOS,
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)
"""In the order of their ids, which follow those of all merges."""

BYTES = 256
SMALLEST_VOCAB = BYTES + len(SPECIALS)

FILE_NAME = "tokenizer.bpe"
FOREIGN_NAME = "tokenizer.pkl"
"""What Karpathy's nanochat writes: a pickle, which can run code when it is read, so it is never read here."""

TRAIN = "python -m scripts.tok_train"


class Tokenizer:
    """An immutable tokenizer; made by `train` or `load`. Text never turns into special tokens by itself."""

    def __init__(self, core: rustbpe.Tokenizer) -> None:
        """Wrap a tokenizer of rustbpe.

        Raises:
            NanochatError: it lacks a special token.
        """
        self.core = core
        self._specials = core.special_tokens
        if missing := [name for name in SPECIALS if name not in self._specials]:
            raise NanochatError(
                f"the tokenizer has no special tokens {' '.join(missing)}; train another with '{TRAIN}'"
            )
        contents = core.to_bytes()
        self.fingerprint = f"{zlib.crc32(contents):08x}"
        """CRC-32 of the saved file; a checkpoint remembers with which tokenizer it was trained."""

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        progress: Callable[[str, int, int | None], object] | None = None,
    ) -> Tokenizer:
        """Learn the merges of `vocab_size` tokens: 256 bytes, merges, nine special tokens.

        A text with too few distinct pieces gives a smaller vocabulary; `vocab_size` of the result tells.
        `progress` hears ("count", texts so far, None), then ("merge", done, of).

        Raises:
            WrongUsage: `vocab_size` has no room for the bytes and the special tokens.
            NanochatError: there is no text.
        """
        if vocab_size < SMALLEST_VOCAB:
            raise WrongUsage(
                f"a vocabulary of {vocab_size} is too small; {BYTES} bytes and {len(SPECIALS)} special "
                f"tokens need {SMALLEST_VOCAB}"
            )
        module = bpe.module()
        core = module.Tokenizer()
        try:
            core.train_from_iterator(
                texts,
                vocab_size,
                pattern=module.NANOCHAT_PATTERN,
                special_tokens=SPECIALS,
                progress=progress,
            )
        except ValueError as error:
            raise NanochatError(
                f"the tokenizer cannot be trained: {error}; give it other text"
            ) from error
        return cls(core)

    @classmethod
    def load(cls, path: Path | None = None) -> Tokenizer:
        """Read a tokenizer file; `<base>/tokenizer/tokenizer.bpe` by default.

        Raises:
            NanochatError: it is missing, cut, damaged, of another program, or without the special tokens.
        """
        path = path or default_path()
        module = bpe.module()
        try:
            return cls(module.Tokenizer.load(path))
        except FileNotFoundError:
            raise NanochatError(_missing(path)) from None
        except (OSError, ValueError) as error:
            raise NanochatError(
                f"{path} cannot be read: {error}; bring a sound copy back or train another with '{TRAIN}'"
            ) from error
        except NanochatError as error:
            raise NanochatError(f"{path}: {error}") from error

    def save(self, path: Path | None = None) -> Path | None:
        """Write the file that `load` reads, atomically; `<base>/tokenizer/tokenizer.bpe` by default.

        A model is worth nothing without its tokenizer, so another one that was there is kept beside it.

        Returns:
            where another one that was there is now, `tokenizer-FINGERPRINT.bpe`; None if there was none.

        Raises:
            NanochatError: a file cannot be written.
        """
        path = path or default_path()
        kept = None
        if path.is_file() and (former := crc32(path)) != self.fingerprint:
            kept = path.with_name(f"{path.stem}-{former}{path.suffix}")
            _write(kept, path.read_bytes())
        _write(path, self.core.to_bytes())
        return kept

    @property
    def vocab_size(self) -> int:
        """How many ids there are, special tokens included."""
        return self.core.vocab_size

    @property
    def bos(self) -> int:
        """The id that starts every document."""
        return self._specials[BOS]

    def special(self, name: str) -> int:
        """The id of one of `SPECIALS`.

        Raises:
            KeyError: there is no such special token.
        """
        return self._specials[name]

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without BOS; what looks like a special token in it is ordinary text."""
        try:
            return self.core.encode(text)
        except UnicodeEncodeError:
            return self.core.encode(_whole(text))

    def encode_documents(
        self, texts: Sequence[str], threads: int | None = None
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The ids of all texts in one array, BOS before each, and where each one starts.

        Returns:
            ids, uint16 or uint32, and `len(texts) + 1` offsets: text i is `ids[offsets[i]:offsets[i + 1]]`.
        """
        try:
            return self.core.batch_encode_to_numpy(texts, threads, prepend=self.bos)
        except UnicodeEncodeError:
            return self.encode_documents([_whole(text) for text in texts], threads)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; what is no whole character becomes U+FFFD, special tokens show their names."""
        return self.core.decode(ids, errors="replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of ids, exactly."""
        return self.core.decode_bytes(ids)

    def byte_lengths(self) -> NDArray[np.int32]:
        """How many bytes of text each id stands for, int32[vocab_size]; 0 for special tokens."""
        return self.core.token_byte_lengths()


def default_path() -> Path:
    """Where the tokenizer lives below the base folder."""
    return base_dir() / "tokenizer" / FILE_NAME


def _write(path: Path, contents: bytes) -> None:
    with atomic(path) as file:
        file.write(contents)


def _whole(text: str) -> str:
    """The text without lone surrogates, which JSON can spell and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _missing(path: Path) -> str:
    if path.with_name(FOREIGN_NAME).exists():
        return (
            f"{path} is not there, only {FOREIGN_NAME}, a pickle of another nanochat, which is not read "
            f"because pickles can run code; train one on the same text with '{TRAIN}'"
        )
    return f"{path} is not there; train a tokenizer with '{TRAIN}'"

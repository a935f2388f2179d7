"""Byte-pair encoding: trains and uses the tokenizers of the GPT family, exactly and fast."""

from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import Any, Literal, SupportsIndex, TypeAlias, TypedDict, final

import numpy as np
from numpy.typing import NDArray

__all__ = ["GPT2_PATTERN", "GPT4_PATTERN", "NANOCHAT_PATTERN", "Tokenizer", "__version__"]

__version__: str

GPT2_PATTERN: str
GPT4_PATTERN: str
NANOCHAT_PATTERN: str

_Special: TypeAlias = Literal["text", "raise", "parse"]
_Ids: TypeAlias = NDArray[np.uint16] | NDArray[np.uint32]
_AnyIds: TypeAlias = Iterable[SupportsIndex] | NDArray[np.integer[Any]]
_Path: TypeAlias = str | PathLike[str]

class _Encoding(TypedDict):
    pat_str: str
    mergeable_ranks: dict[bytes, int]
    special_tokens: dict[str, int]

@final
class Tokenizer:
    """Byte-pair encoding: trained on text, then turns text into token ids and back."""

    def __new__(cls) -> Tokenizer: ...
    def train_from_iterator(
        self,
        iterator: Iterable[str],
        vocab_size: int,
        buffer_size: int = 8192,
        pattern: str | None = None,
        *,
        special_tokens: Sequence[str] | None = None,
        threads: int | None = None,
        progress: Callable[[str, int, int | None], object] | None = None,
    ) -> None:
        """Train on the strings that `iterator` yields, and replace what this tokenizer was."""

    def get_pattern(self) -> str:
        """The split pattern; empty before training."""

    def get_mergeable_ranks(self) -> list[tuple[bytes, int]]:
        """All tokens but the special ones, as (bytes, id), by id."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, special tokens included."""

    @property
    def special_tokens(self) -> dict[str, int]:
        """The special tokens with their ids."""

    def add_special_tokens(self, names: Sequence[str]) -> None:
        """Add special tokens, with the ids from `vocab_size` on."""

    def encode_special(self, name: str) -> int:
        """The id of a special token."""

    def encode(self, text: str, *, special: _Special = "text") -> list[int]:
        """The ids of a text."""

    def encode_to_numpy(self, text: str, *, special: _Special = "text") -> _Ids:
        """The ids of a text as a numpy array: uint16 if `vocab_size` allows, or else uint32."""

    def batch_encode(
        self,
        texts: Iterable[str],
        threads: int | None = None,
        *,
        special: _Special = "text",
    ) -> list[list[int]]:
        """The ids of each text, found on all cores or on `threads` threads."""

    def batch_encode_to_numpy(
        self,
        texts: Iterable[str],
        threads: int | None = None,
        prepend: int | str | None = None,
        append: int | str | None = None,
        *,
        special: _Special = "text",
    ) -> tuple[_Ids, NDArray[np.int64]]:
        """The ids of all texts in one array, and where each text's ids start."""

    def count(self, text: str, *, special: _Special = "text") -> int:
        """How many ids a text has, without making them."""

    def decode(self, ids: _AnyIds, *, errors: str = "strict") -> str:
        """The text that ids stand for; `errors` is as for bytes.decode."""

    def decode_bytes(self, ids: _AnyIds) -> bytes:
        """The bytes that ids stand for."""

    def token_byte_lengths(self) -> NDArray[np.int32]:
        """How many bytes of text each id stands for: 0 for special tokens."""

    def save(self, path: _Path) -> None:
        """Write this tokenizer to one file, with a checksum."""

    @staticmethod
    def load(path: _Path) -> Tokenizer:
        """Read a file that `save` wrote."""

    def to_bytes(self) -> bytes:
        """What `save` writes."""

    @staticmethod
    def from_bytes(contents: bytes) -> Tokenizer:
        """A tokenizer from what `to_bytes` gave."""

    @staticmethod
    def from_tiktoken(
        mergeable_ranks: dict[bytes, int],
        pattern: str,
        special_tokens: dict[str, int] | None = None,
    ) -> Tokenizer:
        """A tokenizer from tiktoken's ranks."""

    def to_tiktoken(self) -> _Encoding:
        """The keyword arguments, but for the name, of an equal tiktoken.Encoding."""

    @staticmethod
    def from_hf_json(text: str) -> Tokenizer:
        """A tokenizer from the text of a Hugging Face tokenizer.json."""

    def to_hf_json(self) -> str:
        """The text of a Hugging Face tokenizer.json."""

    def __reduce__(self) -> tuple[Callable[[bytes], Tokenizer], tuple[bytes]]: ...

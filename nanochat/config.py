"""The shape of a model: numbers only, without torch, so that the doctor can reckon with it too."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanochat.errors import NanochatError, WrongUsage

WINDOW_STEP = 128
"""Short windows are rounded up to this many tokens, the block size of attention kernels."""

GATE_INPUTS, SMEAR_INPUTS = 12, 24
"""How many of a token's numbers the gates look at; all of them in a narrower model."""

VOCAB_STEP = 64
"""The head's rows are padded to a multiple of this; matrix units want it, the loss never sees the padding."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides the shape of the parameters. Lengths and windows are in tokens."""

    vocab_size: int
    depth: int
    width: int
    heads: int
    kv_heads: int
    sequence_len: int
    window_pattern: str = "SSSL"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "depth", "width", "heads", "kv_heads", "sequence_len"):
            if getattr(self, name) < 1:
                raise WrongUsage(f"{name} is {getattr(self, name)}, but must be at least 1")
        if self.width % self.heads:
            raise WrongUsage(
                f"width {self.width} does not divide by {self.heads} heads; choose another --head-dim"
            )
        if self.head_dim % 2:
            raise WrongUsage(
                f"a head of {self.head_dim} is odd, and rotary embedding turns pairs; choose an even --head-dim"
            )
        if self.heads % self.kv_heads:
            raise WrongUsage(f"{self.kv_heads} key/value heads do not divide {self.heads} heads")
        if not self.window_pattern or set(self.window_pattern) - {"S", "L"}:
            raise WrongUsage(
                f"window pattern '{self.window_pattern}' may hold the letters S (short) and L (long) only"
            )

    @classmethod
    def from_depth(
        cls,
        depth: int,
        *,
        vocab_size: int,
        sequence_len: int = 2048,
        aspect_ratio: int = 64,
        head_dim: int = 128,
        window_pattern: str = "SSSL",
    ) -> ModelConfig:
        """One number makes a model: width is `depth * aspect_ratio`, rounded up to whole heads.

        Raises:
            WrongUsage: a number does not fit.
        """
        if min(depth, aspect_ratio, head_dim) < 1:
            raise WrongUsage(
                f"depth {depth}, aspect ratio {aspect_ratio} and head dim {head_dim} must be at least 1"
            )
        heads = -(-depth * aspect_ratio // head_dim)
        return cls(
            vocab_size=vocab_size,
            depth=depth,
            width=heads * head_dim,
            heads=heads,
            kv_heads=heads,
            sequence_len=sequence_len,
            window_pattern=window_pattern.upper(),
        )

    @property
    def head_dim(self) -> int:
        """Numbers in one head."""
        return self.width // self.heads

    @property
    def kv_width(self) -> int:
        """Numbers in all keys of a token, and as many in its values."""
        return self.kv_heads * self.head_dim

    @property
    def padded_vocab(self) -> int:
        """Rows of the head and of the embedding."""
        return -(-self.vocab_size // VOCAB_STEP) * VOCAB_STEP

    @property
    def windows(self) -> tuple[int, ...]:
        """How many tokens before itself each layer lets a token see; the last layer always sees all."""
        short = -(-self.sequence_len // (4 * WINDOW_STEP)) * WINDOW_STEP
        size = {"S": min(short, self.sequence_len), "L": self.sequence_len}
        tiled = [size[self.window_pattern[i % len(self.window_pattern)]] for i in range(self.depth)]
        return (*tiled[:-1], self.sequence_len)

    @property
    def value_layers(self) -> tuple[int, ...]:
        """Layers with an embedding of values: every second one, counted back from the last."""
        return tuple(i for i in range(self.depth) if i % 2 == (self.depth - 1) % 2)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The reverse of `to_dict`.

        Raises:
            NanochatError: a key is missing or unknown.
        """
        try:
            return cls(**values)
        except (TypeError, WrongUsage) as error:
            raise NanochatError(f"the model configuration cannot be read: {error}") from error

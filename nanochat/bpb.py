"""Bits per byte: how well a model predicts text, whatever its vocabulary. Lower is better."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import torch

from nanochat.errors import NanochatError
from nanochat.loss import IGNORED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Model(Protocol):
    """A language model that tells the loss of each token, in nats."""

    def __call__(
        self, inputs: torch.Tensor, targets: torch.Tensor, *, reduction: str
    ) -> torch.Tensor: ...


class Ranks(Protocol):
    """What is needed of a `World`."""

    def gather_objects(self, thing: tuple[float, int]) -> list[tuple[float, int]]: ...


def bits_per_byte(
    model: Model,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    byte_lengths: NDArray[np.int32],
    world: Ranks,
) -> float:
    """Σ loss / (ln 2 · Σ bytes) over all targets that are text, on all ranks.

    Targets that are ignored or stand for no bytes (special tokens) count neither above nor below the line,
    so that models with other special tokens compare.

    Args:
        model: gives losses (B, T) in nats for `reduction="none"`.
        batches: inputs and targets (B, T) on the model's device; this rank's share.
        byte_lengths: bytes of each id, (vocab,); `Tokenizer.byte_lengths()`.
        world: the ranks; all of them must call, and all get the same number.

    Raises:
        NanochatError: there was no text in the batches of any rank.
    """
    nats, size = 0.0, 0
    table: torch.Tensor | None = None
    with torch.no_grad():
        for inputs, targets in batches:
            if table is None:
                table = torch.from_numpy(byte_lengths).to(targets.device)
            lengths = torch.where(targets == IGNORED, 0, table[targets.clamp(min=0)])
            losses = model(inputs, targets, reduction="none")
            # Where, not a product: the loss of an ignored target may be anything, not-a-number too.
            # Batches are added up in double on the host, because not every device has doubles.
            nats += torch.where(lengths > 0, losses, 0).sum().item()
            size += int(lengths.sum().item())
    shares = world.gather_objects((nats, size))
    nats = sum(share[0] for share in shares)
    size = sum(share[1] for share in shares)
    if size == 0:
        raise NanochatError(
            "bits per byte cannot be told: there was no text in what was read; give more tokens"
        )
    return nats / (math.log(2) * size)

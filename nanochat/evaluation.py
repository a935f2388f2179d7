"""What is asked of a model while it trains: bits per byte of text it has not seen, and a few samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch

from nanochat.bpb import bits_per_byte
from nanochat.dataloader import TokenLoader
from nanochat.device import Device
from nanochat.distributed import World
from nanochat.model import GPT
from nanochat.tokenizer import Tokenizer

PROMPTS = (
    "The capital of France is",
    "The chemical symbol of gold is",
    "If yesterday was Friday, then tomorrow will be",
    "The opposite of hot is",
    "The planets of the solar system are:",
    "My favorite color is",
    "If 5*x + 3 = 13, then x is",
)
"""What samples begin with; a small model fails at all of them in an instructive way."""


@contextmanager
def evaluating(model: GPT) -> Iterator[None]:
    """The model in evaluation mode, without gradients; afterwards as it was."""
    training = model.training
    model.eval()
    try:
        # Not inference_mode: tables of angles and masks made in it could not be used in training afterwards.
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def text_bpb(
    model: GPT,
    tokenizer: Tokenizer,
    shards: Sequence[Path],
    *,
    device: Device,
    world: World,
    rows: int,
    length: int,
    tokens: int,
) -> float:
    """Bits per byte over the first `tokens` tokens of some shards, or all of them if they are fewer.

    The rows are packed as in training, and the same whatever the number of ranks; see `nanochat.dataloader`.

    Args:
        rows: per rank and pass.
        length: tokens in a row.

    Raises:
        NanochatError: a shard is damaged or too small.
    """
    passes = max(1, tokens // (rows * length * world.size))
    loader = TokenLoader(
        shards, tokenizer, rows=rows, length=length, rank=world.rank, world=world.size, epochs=1
    )
    with evaluating(model), loader:
        batches = (
            (t[:, :-1], t[:, 1:])
            for batch in islice(loader, passes)
            for t in (device.put(torch.from_numpy(batch.tokens)).long(),)
        )
        return bits_per_byte(model, batches, tokenizer.byte_lengths(), world)

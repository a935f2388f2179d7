"""Bits per byte against a direct computation, token by token."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nanochat.bpb import bits_per_byte  # noqa: E402
from nanochat.errors import NanochatError  # noqa: E402

VOCAB = 11
LENGTHS = np.array([1, 2, 3, 1, 1, 4, 1, 2, 1, 0, 0], dtype=np.int32)
"""The last two ids are special."""


class Alone:
    """One rank."""

    def gather_objects(self, thing: object) -> list[object]:
        return [thing]


class WithOthers:
    """A rank among others whose shares are known."""

    def __init__(self, *shares: tuple[float, int]) -> None:
        self.shares = shares

    def gather_objects(self, thing: object) -> list[object]:
        return [thing, *self.shares]


class Keeper(Alone):
    """Remembers what a rank contributed."""

    def gather_objects(self, thing: object) -> list[object]:
        self.share = thing
        return [thing]


class Bigram(torch.nn.Module):
    """Logits depend on the token before only."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.table = torch.nn.Parameter(torch.randn(VOCAB, VOCAB, generator=generator) * 2)

    def forward(self, idx: torch.Tensor, targets: torch.Tensor, *, reduction: str) -> torch.Tensor:
        assert reduction == "none"
        logits = self.table[idx]
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none"
        ).view(targets.shape)
        # What the loss of an ignored target is, is nobody's promise.
        return losses.masked_fill(targets == -1, float("nan"))


def batches(count: int, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Random rows, with some targets ignored."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        rows = torch.randint(VOCAB, (3, 9), generator=generator)
        targets = rows[:, 1:].clone()
        targets[torch.rand(targets.shape, generator=generator) < 0.2] = -1
        made.append((rows[:, :-1], targets))
    return made


def directly(model: Bigram, data: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """The definition, one token at a time, in double."""
    table = model.table.detach().double()
    bits, size = 0.0, 0
    for inputs, targets in data:
        for before, after in zip(
            inputs.flatten().tolist(), targets.flatten().tolist(), strict=True
        ):
            if after == -1 or LENGTHS[after] == 0:
                continue
            bits -= math.log2(torch.softmax(table[before], 0)[after].item())
            size += int(LENGTHS[after])
    return bits / size


def test_equals_the_definition() -> None:
    """Nothing but text counts, and the ignored targets' not-a-number stays out."""
    model, data = Bigram(), batches(4)
    assert bits_per_byte(model, data, LENGTHS, Alone()) == pytest.approx(
        directly(model, data), rel=1e-6
    )


def test_a_known_value() -> None:
    """A model that gives each of 256 one-byte tokens the same chance needs 8 bits for a byte."""

    def even(inputs: torch.Tensor, targets: torch.Tensor, *, reduction: str) -> torch.Tensor:
        return torch.full(targets.shape, math.log(256))

    rows = torch.arange(64).view(4, 16)
    lengths = np.ones(256, dtype=np.int32)
    assert bits_per_byte(even, [(rows, rows)], lengths, Alone()) == pytest.approx(8)


def test_ranks_together_equal_one_rank() -> None:
    """Shares are added before they are divided: ranks with unequal text weigh by their bytes."""
    model, data = Bigram(), batches(5)
    kept = [Keeper(), Keeper()]
    bits_per_byte(model, data[0:1], LENGTHS, kept[0])
    bits_per_byte(model, data[1:3], LENGTHS, kept[1])
    world = WithOthers(kept[0].share, kept[1].share)
    together = bits_per_byte(model, data[3:5], LENGTHS, world)
    assert together == pytest.approx(bits_per_byte(model, data, LENGTHS, Alone()), rel=1e-9)


def test_a_rank_without_batches_takes_part() -> None:
    """An empty share is no error as long as another rank has text."""
    assert bits_per_byte(Bigram(), [], LENGTHS, WithOthers((math.log(2) * 6, 3))) == pytest.approx(
        2
    )


@pytest.mark.parametrize("target", [-1, 9])
def test_no_text_is_said(target: int) -> None:
    """Only ignored or only special targets: a sentence, not a division by zero."""
    rows = torch.zeros((1, 4), dtype=torch.long)
    with pytest.raises(NanochatError, match="no text"):
        bits_per_byte(Bigram(), [(rows, torch.full_like(rows, target))], LENGTHS, Alone())


def test_leaves_no_gradients() -> None:
    """Evaluation keeps no graph alive."""
    model = Bigram()
    bits_per_byte(model, batches(1), LENGTHS, Alone())
    assert model.table.grad is None
    assert torch.is_grad_enabled()

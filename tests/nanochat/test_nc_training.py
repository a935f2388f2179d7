"""Steps, the scale of losses in half precision, and being asked to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nanochat import device as devices  # noqa: E402
from nanochat.config import ModelConfig  # noqa: E402
from nanochat.dataloader import Batch, Position  # noqa: E402
from nanochat.distributed import World  # noqa: E402
from nanochat.model import GPT  # noqa: E402
from nanochat.schedule import Shape  # noqa: E402
from nanochat.training import LossScale, StopRequest, Trainer, make_optimizer  # noqa: E402

VOCAB, LENGTH, ROWS = 64, 16, 2


def test_the_loss_scale_halves_at_an_overflow_and_doubles_after_long_luck() -> None:
    scale = LossScale(active=True)
    start = scale.value
    assert not scale.accept(finite=False)
    assert scale.value == start / 2
    for _ in range(LossScale.GROWTH_STEPS):
        assert scale.accept(finite=True)
    assert scale.value == start
    other = LossScale(active=True)
    other.restore(scale.to_dict())
    assert other.to_dict() == scale.to_dict()


def test_without_half_precision_nothing_is_scaled() -> None:
    scale = LossScale(active=False)
    assert scale.accept(finite=False)
    assert scale.value == 1.0


def test_sigterm_is_remembered_and_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop = StopRequest()
    assert not stop.asked
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.asked
    stop.withdraw()
    assert signal.getsignal(signal.SIGTERM) == before


def batches(seed: int) -> Iterator[Batch]:
    """Rows in which each token follows from the one before it."""
    chance = np.random.default_rng(seed)
    while True:
        start = chance.integers(0, VOCAB, (ROWS, 1))
        tokens = (start + np.arange(LENGTH + 1) * 3) % VOCAB
        yield Batch(tokens.astype(np.int32), "1/1 rg 1", 1, [], Position(), {})


def trainer(*, passes: int = 1, steps: int = 60, muon: bool = True) -> Trainer:
    cpu = devices.find("cpu")
    torch.manual_seed(0)
    model = GPT(
        ModelConfig.from_depth(
            2, vocab_size=VOCAB, sequence_len=LENGTH, head_dim=16, aspect_ratio=16
        )
    )
    model.init_weights()
    optimizer = make_optimizer(
        model,
        cpu,
        World(),
        rates={},
        batch=round(0.09 * 2**19),
        weight_decay=0.1,
        compiler=None,
        muon=muon,
    )
    return Trainer(
        model=model, optimizer=optimizer, device=cpu, world=World(), batches=batches(1), accumulation=passes,
        shape=Shape(steps=steps, warmup_steps=5),
    )  # fmt: skip


@pytest.mark.parametrize("muon", [True, False])
def test_steps_learn(*, muon: bool) -> None:
    t = trainer(muon=muon)
    try:
        losses = [t.step(number).loss for number in range(60)]
    finally:
        t.close()
    assert losses[0] == pytest.approx(np.log(VOCAB), rel=0.05)
    assert losses[-1] < 0.5 * losses[0]


def test_rates_follow_the_schedule_and_every_group_has_its_first_rate() -> None:
    t = trainer()
    try:
        step = t.step(0)
        hyper = t.optimizer.hyper
        assert step.lr_factor == pytest.approx(1 / 5)
        assert all(h.lr == pytest.approx(h.initial_lr / 5) for h in hyper.values())
        assert hyper["matrices"].betas[0] == pytest.approx(0.85)
        assert set(step.norms) == set(t.optimizer.groups)
        assert all(np.isfinite(norm) and norm >= 0 for norm in step.norms.values())
    finally:
        t.close()


def test_a_broken_gradient_shows_in_the_norm_of_its_group() -> None:
    t = trainer()
    try:
        t.step(0)
        with torch.no_grad():
            t.model.blocks[0].expand.weight[0, 0] = float("nan")
        step = t.step(1)
        local = t.optimizer.local_norms()
    finally:
        t.close()
    assert not np.isfinite(step.loss)
    assert not np.isfinite(local["matrices"])

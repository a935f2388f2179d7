"""Schedules: continuous, within their bounds, and divisible."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat import schedule
from nanochat.errors import WrongUsage
from nanochat.schedule import GROUPS, Shape, lr_factor, warmup_steps


def test_multiplier_of_a_long_run() -> None:
    shape = Shape(steps=10_000)
    assert shape.multiplier(0) == 1 / 40
    assert shape.multiplier(39) == shape.multiplier(40) == shape.multiplier(3500) == 1.0
    # Half of the way down from 1 to 0.05.
    assert shape.multiplier(6750) == pytest.approx(0.525)
    assert shape.multiplier(10_000) == pytest.approx(0.05)


@given(st.integers(1, 3000), st.floats(0, 1), st.integers(0, 100))
def test_multiplier_stays_within_bounds(steps: int, ratio: float, warmup: int) -> None:
    shape = Shape(steps=steps, warmdown_ratio=ratio, warmup_steps=warmup)
    values = [shape.multiplier(step) for step in range(steps)]
    assert all(0 < value <= 1 for value in values)
    after = values[warmup:]
    assert after == sorted(after, reverse=True)


@given(st.integers(1, 3000), st.floats(0, 1))
def test_muon_momentum_has_no_jumps(steps: int, ratio: float) -> None:
    """Also in a run that goes down before it has come up, where 0.86 was once followed by 0.97."""
    shape = Shape(steps=steps, warmdown_ratio=ratio)
    values = [shape.muon_momentum(step) for step in range(steps + 1)]
    assert values[0] == pytest.approx(0.85)
    assert all(0.85 <= value <= 0.97 for value in values)
    steepest = max(0.12 / 400, 0.07 / max(1, round(ratio * steps)))
    assert all(abs(b - a) <= steepest + 1e-12 for a, b in itertools.pairwise(values))


def test_muon_momentum_of_a_long_run() -> None:
    shape = Shape(steps=10_000)
    told = [shape.muon_momentum(step) for step in (0, 200, 400, 3500, 6750, 10_000)]
    assert told == pytest.approx([0.85, 0.91, 0.97, 0.97, 0.935, 0.90])


def test_weight_decay_is_half_a_cosine() -> None:
    shape = Shape(steps=100)
    assert [shape.weight_decay(s) for s in (0, 50, 100, 200)] == pytest.approx([1, 0.5, 0, 0])


def test_horizon_takes_the_first_that_is_set() -> None:
    known = {"flops_per_token": 1e6, "scaling_parameters": 1000, "batch": 64}
    assert schedule.steps_for(iterations=7, target_flops=1e9, ratio=12, **known) == 7
    assert schedule.steps_for(iterations=-1, target_flops=6.4e8, ratio=12, **known) == 10
    assert schedule.steps_for(iterations=-1, target_flops=-1, ratio=12, **known) == 187
    assert schedule.steps_for(iterations=-1, target_flops=-1, ratio=0.001, **known) == 1
    with pytest.raises(WrongUsage, match="--num-iterations"):
        schedule.steps_for(iterations=-1, target_flops=-1, ratio=-1, **known)


@given(
    st.integers(-10, 100_000), st.integers(1, 33), st.integers(1, 257), st.integers(1, 9)
)  # fmt: skip
def test_accumulation_divides_or_says_what_does(
    total: int, rows: int, length: int, ranks: int
) -> None:
    try:
        assert schedule.accumulation(total, rows, length, ranks) * rows * length * ranks == total
        return
    except WrongUsage as error:
        advised = [int(n) for n in str(error).split("--total-batch-size ")[1].split(" or ")]
    assert all(schedule.accumulation(n, rows, length, ranks) >= 1 for n in advised)
    unit = rows * length * ranks
    assert max(advised) > total and all(abs(n - total) < unit or n == unit for n in advised)


def test_weight_decay_of_muon_is_clamped() -> None:
    assert schedule.muon_weight_decay(0.28, 2**19, 1e9, 1e9) == pytest.approx(0.28)
    assert schedule.muon_weight_decay(0.28, 2**18, 1e8, 1e9) == 1.0


def test_groups_are_those_of_the_model() -> None:
    pytest.importorskip("torch")
    import torch

    from nanochat.config import ModelConfig
    from nanochat.model import GPT

    with torch.device("meta"):
        model = GPT(ModelConfig.from_depth(2, vocab_size=64))
    groups = model.parameter_groups()
    assert groups.keys() == schedule.GROUPS.keys()
    grouped = [id(p) for params in groups.values() for p in params]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize(
    ("steps", "warmup"), [(1, 1), (12, 2), (40, 4), (150, 15), (400, 40), (20_000, 40)]
)
def test_a_short_run_has_a_short_warmup(steps: int, warmup: int) -> None:
    assert warmup_steps(steps) == warmup


def test_rates_follow_the_batch_smoothly() -> None:
    """The published square root from 2^18 tokens on, its own root below that."""
    factors = [lr_factor(2**n) for n in range(10, 22)]
    ratios = [b / a for a, b in itertools.pairwise(factors)]
    assert ratios == pytest.approx([2**0.25] * 8 + [2**0.5] * 3)
    assert lr_factor(2**19) == 1


@pytest.mark.parametrize("batch", [2**n for n in range(10, 22)])
def test_no_rate_of_a_scale_carries_it_far_at_once(batch: int) -> None:
    """A scale that is subtracted must not cross 1 within the first steps, whatever the batch."""
    group = GROUPS["smear_backout"]
    assert group.rate(group.lr, width=128, batch=batch) <= 0.2

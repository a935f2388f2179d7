"""Depth, batch and horizon: how large a model a machine trains, and in what portions.

All arithmetic is the trainer's own (`nanochat.sizing`, `nanochat.schedule`), so that it comes to the same.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from doctor.errors import DoctorError
from doctor.findings.context import joined
from doctor.knowledge.tables import Row
from doctor.text.quantities import memory

if TYPE_CHECKING:
    from nanochat.config import ModelConfig
    from nanochat.sizing import Setting

MIB = 1 << 20

REFERENCE_DEPTH = 12
"""As in nanochat/plan.py: the depth at which batch and learning rates were tuned."""

PASSES = 2
"""As in nanochat/plan.py: gradients of a pass before lie beside its activations."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What profile and wishes ask for; None is chosen here. Lengths and totals are in tokens."""

    depth: int | None
    length: int | None
    rows: int | None
    total: int | None
    steps: int | None
    ratio: float
    head_dim: int
    vocab_size: int


@dataclass(frozen=True, kw_only=True)
class Devices:
    """Where it is to be trained.

    Attributes:
        device: name of the device that has least memory.
        memory: bytes that each rank has for its tensors.
        rate: FLOP/s of all ranks; None is unknown.
        family: row of the kind of device.
        auto: the row of what is chosen unasked.
    """

    device: str
    dtype: str
    ranks: int
    memory: int
    rate: float | None
    family: Row
    auto: Row


@dataclass(frozen=True, kw_only=True)
class Size:
    """What was chosen; `setting.rows` is the device batch size."""

    setting: Setting
    total: int
    passes: int
    steps: int
    changes: tuple[str, ...] = ()
    """What is not as it was asked for, in sentences."""

    @property
    def tokens(self) -> int:
        """Tokens of the whole run."""
        return self.steps * self.total


def choose(goal: Goal, place: Devices) -> Size:
    """The largest model that fits and is trained in reasonable time, or the one asked for.

    Raises:
        DoctorError: it does not fit; the sentence says what would.
    """
    from nanochat.errors import NanochatError

    try:
        return _batch(goal, place, _model(goal, place))
    except NanochatError as error:
        raise DoctorError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error


def _setting(goal: Goal, place: Devices, depth: int, length: int, rows: int = 1) -> Setting:
    from nanochat.sizing import Setting

    family = place.family
    # Half precision has too small a range for embeddings, and a CPU has memory enough (nanochat/device.py).
    exact = family["kind"] == "cpu" or place.dtype == "float16"
    return Setting(
        config=_config(goal, depth, length),
        rows=rows,
        world=place.ranks,
        dtype=place.dtype,
        embedding_dtype="float32" if exact else place.dtype,
        block_bytes=int(family["block_mb"]) * MIB,
        tile_bytes=int(family["tile_mb"]) * MIB,
        passes=PASSES,
        fused_norm=bool(family["fused_norm"]),
        fused_adamw=bool(family["fused_adamw"]),
    )


def _config(goal: Goal, depth: int, length: int) -> ModelConfig:
    from nanochat.config import ModelConfig

    return ModelConfig.from_depth(
        depth, vocab_size=goal.vocab_size, sequence_len=length, head_dim=goal.head_dim
    )


# --- the model ---------------------------------------------------------------------------------


def _model(goal: Goal, place: Devices) -> Setting:
    """Model and way of training of which at least one row fits."""
    from nanochat.sizing import fits

    if goal.depth is None and (found := _deepest(goal, place)) is not None:
        return found
    depth = goal.depth or int(place.auto["depths"][0])
    for setting in _ways(goal, place, depth):
        if fits(setting, place.memory):
            return setting
    raise DoctorError(_does_not_fit(goal, place, depth))


def _deepest(goal: Goal, place: Devices) -> Setting | None:
    """The deepest model that is trained in time and of which a pass worth starting fits."""
    from nanochat.sizing import fits

    length = goal.length or int(place.auto["lengths"][0])
    rows = goal.rows or max(1, int(place.auto["pass_tokens"]) // length)
    for depth in sorted(_depths_in_time(goal, place, length), reverse=True):
        setting = _setting(goal, place, depth, length, rows)
        if fits(setting, place.memory):
            return setting
    return None


def _depths_in_time(goal: Goal, place: Devices, length: int) -> list[int]:
    """Depths whose training ends within the hours that nobody has to be asked for."""
    depths = [int(depth) for depth in place.auto["depths"]]
    if place.rate is None:
        return [depth for depth in depths if depth <= place.family["unknown_depth"]]
    most = float(place.auto["hours"]) * 3600 * place.rate
    return [d for d in depths if _work(_config(goal, d, length), goal.ratio) <= most] or depths[:1]


def _work(config: ModelConfig, ratio: float) -> float:
    """FLOPs of a run."""
    from nanochat import sizing

    return ratio * sizing.parameters(config).scaling * sizing.flops_per_token(config)


def _ways(goal: Goal, place: Devices, depth: int) -> Iterator[Setting]:
    """One row of a depth, from the way that costs nothing to those that cost context and time."""
    lengths = [goal.length] if goal.length else place.auto["lengths"]
    for recompute in (False, True):
        for length in lengths:
            yield replace(_setting(goal, place, depth, int(length)), recompute=recompute)


def _does_not_fit(goal: Goal, place: Devices, depth: int) -> str:
    from nanochat import sizing

    setting = list(_ways(goal, place, depth))[-1]
    need = sizing.MARGIN * sizing.memory(setting).peak / MIB
    most = sizing.fitting_depth(setting, place.memory)
    depths = [int(d) for d in place.auto["depths"]]
    advised = most if most > depths[-1] else max((d for d in depths if d <= most), default=None)
    cure = (
        f"depth {advised} fits, so give --depth {advised}, or leave the choice to --profile auto"
        if advised
        else "no model of a use fits, so free its memory or use a device with more"
    )
    return (
        f"A model of depth {depth} does not fit: one row of {setting.config.sequence_len} tokens needs about "
        f"{memory(need)}, even with activations worked out again, and {_room(place)}; {cure}."
    )


# --- batch and horizon ---------------------------------------------------------------------------


def _batch(goal: Goal, place: Devices, setting: Setting) -> Size:
    from nanochat import schedule, sizing

    config, length = setting.config, setting.config.sequence_len
    fitting = sizing.largest_batch(setting, place.memory)
    rows = min(goal.rows or int(place.auto["most_rows"]), fitting)
    rows = _dividing(rows, goal.total, length * place.ranks)
    scaling = sizing.parameters(config).scaling
    total = goal.total
    if total is None:
        reference = sizing.parameters(_config(goal, REFERENCE_DEPTH, length)).scaling
        total = schedule.batch_tokens(goal.ratio * scaling, goal.ratio * reference)
    total = sizing.nearest_batch(total, rows, length, place.ranks)
    steps = schedule.steps_for(
        iterations=goal.steps or -1,
        target_flops=-1,
        ratio=goal.ratio,
        flops_per_token=sizing.flops_per_token(config),
        scaling_parameters=scaling,
        batch=total,
    )
    size = Size(
        setting=replace(setting, rows=rows),
        total=total,
        passes=schedule.accumulation(total, rows, length, place.ranks),
        steps=steps,
    )
    return replace(size, changes=tuple(_changes(goal, place, size)))


def _dividing(rows: int, total: int | None, unit: int) -> int:
    """The most rows that divide a total batch; without one a power of two, as computed totals are."""
    power = 1 << (rows.bit_length() - 1)
    if total is None:
        return power
    return next((n for n in range(rows, 0, -1) if total % (n * unit) == 0), power)


def _changes(goal: Goal, place: Devices, size: Size) -> Iterator[str]:
    setting, length = size.setting, size.setting.config.sequence_len
    made = []
    if goal.rows and setting.rows < goal.rows:
        made.append(f"a pass has {setting.rows} rows in place of {goal.rows}")
    usual = goal.length or int(place.auto["lengths"][0])
    if length < usual:
        made.append(f"a row has {length} tokens in place of {usual}")
    if setting.recompute:
        made.append("activations are worked out again in the backward pass, a third slower")
    if made:
        yield f"{_room(place)}: {joined(made)}."
    if goal.total and size.total != goal.total:
        yield (
            f"A total batch of {goal.total} tokens does not divide by {place.ranks} x {setting.rows} rows of "
            f"{length}: it is {size.total}."
        )


def _room(place: Devices) -> str:
    return f"{place.device} leaves {memory(place.memory / MIB)} to a process of training"


# --- other stages -----------------------------------------------------------------------------------


@functools.cache
def stage_batch(
    rows: int, length: int, total: int, ranks: int, most_rows: int, sequences: int
) -> tuple[int, int, int]:
    """Rows, total batch and passes of a stage after the base stage, whose own come first.

    Args:
        most_rows: 0 is as many as the base stage has.
        sequences: in a step, over all ranks; 0 is the base stage's total batch.
    """
    from nanochat.schedule import accumulation
    from nanochat.sizing import nearest_batch

    if sequences:
        rows = min(rows, most_rows or rows, max(1, sequences // ranks))
        rows = 1 << (rows.bit_length() - 1)
        total = nearest_batch(sequences * length, rows, length, ranks)
    return rows, total, accumulation(total, rows, length, ranks)

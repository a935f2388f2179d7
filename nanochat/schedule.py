"""How long to train and how fast: horizon, batch size, learning rates over time. Numbers only, no torch.

The rules and constants are those of public nanochat (July 2026): found there by sweeps at depth 12 and carried to other
depths by the scaling rules below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from nanochat.errors import WrongUsage

REFERENCE_BATCH = 2**19
"""Tokens in a batch for which the learning rates below hold."""

BATCH_EXPONENT = 0.383
"""The best batch grows with this power of the tokens trained on."""

SMALL_BATCH = 2**18
"""The smallest batch that the published rules were found for. Below it rates fall with the fourth root of the batch and
not the square root, which leaves the small batches of laptops and CPUs with rates of a third of what serves them."""

WARMUP_STEPS = 40
MOST_WARMUP = 0.1
"""The largest share of a run that its warm-up takes where nobody says: 40 steps of 40 would be all of it."""

REFERENCE_WIDTH = 768

ADAM_EPSILON = 1e-10


@dataclass(frozen=True, kw_only=True)
class Group:
    """How one group of parameters is optimised, at depth 12 and a batch of 2^19 tokens."""

    lr: float
    betas: tuple[float, float]
    weight_decay: float = 0.0
    epsilon: float = ADAM_EPSILON
    """Adam makes a full step of any gradient far above this, rounding too."""
    width_scaled: bool = False
    """The rate is multiplied by sqrt(768 / width)."""
    most_batch_factor: float = math.inf
    """The rate is multiplied by `lr_factor` of the batch, but by no more than this."""

    def rate(self, lr: float, *, width: int, batch: int) -> float:
        """A rate `lr`, found at the reference, for a model of this width and a batch of so many tokens."""
        width_factor = math.sqrt(REFERENCE_WIDTH / width) if self.width_scaled else 1.0
        return lr * width_factor * min(lr_factor(batch), self.most_batch_factor)


NOISE = 1e-6
"""Below the gradients of scales (1e-4 to 0.1 at depth 2 and 4) and above what rounding makes of those that are none: a
norm takes most scales out again before the first update (4e-11), and at depth 2 the backout's for ever (3e-7)."""

GROUPS: Mapping[str, Group] = {
    "head": Group(lr=0.008, betas=(0.8, 0.96), weight_decay=0.01, width_scaled=True),
    "embedding": Group(lr=0.3, betas=(0.8, 0.995), weight_decay=0.001, width_scaled=True),
    "value_embeddings": Group(lr=0.15, betas=(0.8, 0.995), weight_decay=0.01, width_scaled=True),
    "residual_scale": Group(lr=0.005, betas=(0.8, 0.95), weight_decay=0.05, epsilon=NOISE),
    "embedding_scale": Group(lr=0.5, betas=(0.96, 0.95), epsilon=NOISE),
    # Public nanochat keeps these at 0.2 whatever the batch: at 2,048 tokens that is 16 times what all others get, and
    # carries the backout's scale across 1, where the loss jumps.
    "smear_backout": Group(lr=0.2, betas=(0.8, 0.95), epsilon=NOISE, most_batch_factor=1.0),
    # Muon: the second number is beta2 of its second moment, the first comes from `muon_momentum`.
    "matrices": Group(lr=0.02, betas=(0.95, 0.9), weight_decay=0.28),
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The learning rate over a run, relative to its peak: a ramp up, a plateau, a ramp down."""

    steps: int
    warmup_steps: int = WARMUP_STEPS
    warmdown_ratio: float = 0.65
    final_fraction: float = 0.05

    def multiplier(self, step: int) -> float:
        """The factor on all learning rates at a step, counted from 0."""
        warmdown = round(self.warmdown_ratio * self.steps)
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if step <= self.steps - warmdown:
            return 1.0
        progress = (self.steps - step) / warmdown
        return progress + (1 - progress) * self.final_fraction

    def weight_decay(self, step: int) -> float:
        """The factor on Muon's weight decay: half a cosine from 1 to 0."""
        return 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, self.steps))))

    def muon_momentum(self, step: int) -> float:
        """0.85 to 0.97 over 400 steps, back to 0.90 while the learning rate goes down; in a short run the lower one."""
        warmdown = round(self.warmdown_ratio * self.steps)
        rising = 0.85 + (0.97 - 0.85) * min(1.0, step / 400)
        progress = max(0.0, (step - (self.steps - warmdown)) / max(1, warmdown))
        return min(rising, 0.97 + (0.90 - 0.97) * progress)


def warmup_steps(steps: int) -> int:
    """The warm-up of a run of so many steps."""
    return min(WARMUP_STEPS, math.ceil(MOST_WARMUP * steps))


def batch_tokens(tokens: float, reference_tokens: float) -> int:
    """The best total batch for a run over `tokens`, a power of 2; `reference_tokens` is the same run at depth 12."""
    return int(
        2 ** round(math.log2(REFERENCE_BATCH * (tokens / reference_tokens) ** BATCH_EXPONENT))
    )


def lr_factor(batch: int) -> float:
    """The factor on learning rates for a batch of another size than 2^19 tokens."""
    small = min(1.0, batch / SMALL_BATCH)
    return math.sqrt(max(batch, SMALL_BATCH) / REFERENCE_BATCH) * small**0.25


def muon_weight_decay(decay: float, batch: int, tokens: float, reference_tokens: float) -> float:
    """Muon's weight decay, carried over to another batch and horizon, and kept below 1.

    The rule alone gives 1.9 at depth 4, which no short run survives as meant.
    """
    return min(1.0, decay * math.sqrt(batch / REFERENCE_BATCH) * reference_tokens / tokens)


def steps_for(
    *,
    iterations: int,
    target_flops: float,
    ratio: float,
    flops_per_token: float,
    scaling_parameters: int,
    batch: int,
) -> int:
    """How many steps to train: the first of iterations, FLOPs and tokens per parameter that is set (above 0).

    Raises:
        WrongUsage: none is set.
    """
    if iterations > 0:
        return iterations
    if target_flops > 0:
        return max(1, round(target_flops / (flops_per_token * batch)))
    if ratio > 0:
        return max(1, int(ratio * scaling_parameters // batch))
    raise WrongUsage(
        "how long to train is not said: set --num-iterations, --target-flops or --target-param-data-ratio above 0"
    )


def accumulation(total: int, rows: int, length: int, ranks: int) -> int:
    """Passes per step, so that ranks·rows·length·passes is the total batch, all in tokens.

    Raises:
        WrongUsage: it does not divide; the message names the nearest totals that do.
    """
    unit = rows * length * ranks
    if total > 0 and total % unit == 0:
        return total // unit
    below = max(0, total) // unit * unit
    nearest = f"{below} or {below + unit}" if below else f"{unit}"
    raise WrongUsage(
        f"a total batch of {total} tokens does not divide by {unit} ({rows} rows of {length} tokens on {ranks} "
        f"rank{'s' if ranks > 1 else ''}); choose --total-batch-size {nearest}"
    )

"""Whether a run is compiled, and what of it as one: on a CPU that takes a minute, and steps gain an eighth by it."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from nanochat.device import AUTO, Device
from nanochat.errors import NanochatError, WrongUsage
from nanochat.model import GPT

ON, OFF, MODEL, BLOCKS = "on", "off", "model", "blocks"
WISHES = (AUTO, ON, OFF, MODEL, BLOCKS)

BASE_SECONDS, LAYER_SECONDS = 8.0, 10.0
"""What compiling took on two cores of an AMD EPYC with nothing in the cache: 27 s at depth 2, 47 s at depth 4; block by
block 48 s and 66 s, since hardly two blocks are alike (windows, value embeddings)."""

GAIN = 0.12
"""What steps gain: 13 % at depth 2 and 4 in single precision (tests/bench/bench_compile.py). In bf16 not measured."""

EAGER_SHARE = 0.5
"""Of the rate of bare products, what a step as a whole reaches there, uncompiled: 45 % at depth 2, 51 % at depth 4."""

WORTH = 2.0
"""Compiling must save at least so many times what it takes: both are estimates."""


@dataclass(frozen=True)
class Compiling:
    """What was decided. `compiler` is None where nothing is compiled."""

    compiler: Callable[[Any], Any] | None
    part: str
    """MODEL or BLOCKS."""
    why: str = ""
    """For people; empty where nothing was weighed up."""

    @property
    def outcome(self) -> tuple[str, str]:
        """The wish that asks for just this, and why."""
        return (OFF if self.compiler is None else ON), self.why

    def apply(self, model: GPT) -> None:
        """Make training use compiled code. Evaluation and sampling stay as they are: their shapes change."""
        if self.compiler is None:
            return
        # Of a constant that is made once, which is what the cache is for.
        warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
        if self.part == BLOCKS:
            model.run_block = self.compiler(model.run_block)
            return
        # Made now, so that the compiler finds it as it will be.
        model.rotary(0, model.config.sequence_len, model.head.weight.device)
        model.run_hidden = self.compiler(model.run_hidden)


def choose(
    wish: str, device: Device, *, seconds: Callable[[], float], depth: int, recompute: bool
) -> Compiling:
    """What of a run is compiled.

    Args:
        wish: one of WISHES.
        seconds: tells how long the steps will take about, uncompiled; asked where it decides.
        recompute: layers are worked out again in the backward pass, which needs them one by one.

    Raises:
        WrongUsage: the wish is none of WISHES.
    """
    if wish not in WISHES:
        raise WrongUsage(f"--compile takes {', '.join(WISHES)}, not '{wish}'")
    whole = device.family.compiles_whole if wish in (AUTO, ON) else wish == MODEL
    part = MODEL if whole and not recompute else BLOCKS
    if wish == OFF or (wish == AUTO and not device.may_compile):
        return Compiling(None, part)
    why = ""
    if wish == AUTO and device.kind == "cpu":
        steps, cost = seconds(), BASE_SECONDS + LAYER_SECONDS * depth
        pays = GAIN * steps >= WORTH * cost
        why = f"the steps take about {_minutes(steps)}; compiling takes about {cost:.0f} s and would save {GAIN:.0%}"
        if not pays:
            return Compiling(None, part, why)
    return Compiling(device.compiler(), part, why)


@contextmanager
def explain_failure(compiled: bool) -> Iterator[None]:
    """A compiler that fails ends in one sentence; a killed run can leave an unfinished file in its cache.

    Raises:
        NanochatError: it failed.
    """
    try:
        yield
    except Exception as error:
        names = {kind.__name__ for kind in type(error).__mro__}
        if not compiled or not names & {"InductorError", "BackendCompilerFailed"}:
            raise
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        said = " ".join(str(error).split("\n\n")[0].split())[:200]
        raise NanochatError(
            f"compiling failed ({said}): perhaps a killed run left a file unfinished, so remove {cache_dir()} and "
            "start again, or go on with --compile=off"
        ) from error


def estimate_seconds(device: Device, dtype: torch.dtype, flops: float) -> float:
    """How long so many FLOPs of training take about on this device, from how fast it multiplies now."""
    left = torch.ones(512, 256, dtype=dtype, device=device.torch_device)
    right = torch.ones(256, 1024, dtype=dtype, device=device.torch_device)
    product = functools.partial(torch.mm, left, right)
    product()
    times = []
    for _ in range(3):
        began = time.perf_counter()
        product()
        times.append(time.perf_counter() - began)
    rate = 2 * left.numel() * right.shape[1] / min(times)
    return flops / (EAGER_SHARE * rate)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} minutes"

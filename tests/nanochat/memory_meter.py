"""Measures the allocator's peak of a real training step on the CPU, which `nanochat.sizing` has to predict."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.utils.checkpoint
from torch.profiler import ProfilerActivity, profile, record_function

from nanochat.distributed import World
from nanochat.model import GPT
from nanochat.optim import Hyper, Optimizer
from nanochat.schedule import GROUPS
from nanochat.sizing import Setting

MOMENTS = ("forward", "backward", "optimizer")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one step needed, in bytes."""

    before: int
    """Parameters, optimizer state and rotary angles, which exist before the step and after it."""
    highest: dict[str, int]
    """The most that was allocated during each of `MOMENTS`, with what existed before."""
    after: int
    """What is left after it; more than `before` would be a leak."""

    @property
    def peak(self) -> int:
        return max(self.highest.values())


def measure(setting: Setting, world: World | None = None) -> Measured:
    """Take a step under torch's profiler, which sees what the allocator gives and takes back."""
    model, optimizer = make(setting, world)
    tokens, targets = _batch(setting)
    # What the first step makes once and for all, a short one makes too.
    _step(model, optimizer, tokens[:1], targets[:1], 1)
    before = sum(x.untyped_storage().nbytes() for x in _lasting(model, optimizer))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        _step(model, optimizer, tokens, targets, setting.passes)
    highest, after = _replay(profiler)
    return Measured(
        before=before,
        highest={name: before + most for name, most in highest.items()},
        after=before + after,
    )


def seconds(setting: Setting, steps: int = 3) -> float:
    """How long a step takes: the fastest of some, after one that does not count."""
    model, optimizer = make(setting)
    tokens, targets = _batch(setting)
    times = []
    for _ in range(1 + steps):
        start = time.perf_counter()
        _step(model, optimizer, tokens, targets, setting.passes)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _batch(setting: Setting) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (2, setting.rows, setting.config.sequence_len)
    tokens, targets = torch.randint(0, setting.config.vocab_size, shape)
    return tokens, targets


def make(setting: Setting, world: World | None = None) -> tuple[GPT, Optimizer]:
    """A model and its optimizer as the trainer sets them up."""
    dtype = getattr(torch, setting.dtype)
    model = GPT(setting.config)
    model.init_weights(torch.Generator().manual_seed(0))
    model.use(
        dtype=dtype,
        embedding_dtype=getattr(torch, setting.embedding_dtype),
        block_bytes=setting.block_bytes,
        tile_bytes=setting.tile_bytes,
    )
    if setting.recompute:
        model.run_block = functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
    hyper = {
        name: Hyper(lr=g.lr, initial_lr=g.lr, betas=g.betas, weight_decay=g.weight_decay)
        for name, g in GROUPS.items()
    }
    return model, Optimizer(
        model.parameter_groups(),
        hyper,
        world or World(),
        muon=frozenset({"matrices"}) if setting.muon else frozenset(),
        muon_dtype=torch.bfloat16 if dtype == torch.bfloat16 else torch.float32,
        fused_adamw=setting.fused_adamw,
    )


def _step(
    model: GPT, optimizer: Optimizer, tokens: torch.Tensor, targets: torch.Tensor, passes: int
) -> None:
    for _ in range(passes):
        with record_function("moment forward"):
            loss = model(tokens, targets) / passes
        with record_function("moment backward"):
            loss.backward()
    with record_function("moment optimizer"):
        optimizer.step(1.0 / optimizer.world.size)
    optimizer.zero_grad()


def _lasting(model: GPT, optimizer: Optimizer) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    for group in optimizer.state_dict()["groups"].values():
        yield from group["tensors"].values()
    # Made by the first step; a private name, but nothing else in the model outlives a step.
    yield from model._rotary or ()


def _replay(profiler: profile) -> tuple[dict[str, int], int]:
    """Add up what was allocated and freed, in order of time: the highest sum per moment, and the last one."""
    results = profiler.profiler.kineto_results  # type: ignore[union-attr]
    spans, changes = [], []
    for event in results.events():
        name, start = event.name(), event.start_ns()
        if name == "[memory]":
            changes.append((start, event.nbytes()))
        elif name.startswith("moment "):
            spans.append((start, start + event.duration_ns(), name.removeprefix("moment ")))
    highest, now = dict.fromkeys(MOMENTS, 0), 0
    for at, change in sorted(changes, key=lambda pair: pair[0]):
        now += change
        for start, end, name in spans:
            if start <= at <= end:
                highest[name] = max(highest[name], now)
    return highest, now

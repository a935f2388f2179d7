"""One step of training, whatever the stage: passes, gradients, schedule, the update, and what came of it."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

from nanochat.dataloader import Batch
from nanochat.device import Device
from nanochat.distributed import World
from nanochat.model import GPT
from nanochat.optim import Hyper, Optimizer
from nanochat.schedule import GROUPS, Shape

COLLECT_EVERY = 5000
"""Steps between garbage collections: left to itself, Python stops the device for half a second now and then."""


def make_optimizer(
    model: GPT,
    device: Device,
    world: World,
    *,
    rates: Mapping[str, float],
    batch: int,
    weight_decay: float,
    compiler: Callable[[Any], Any] | None,
    muon: bool = True,
) -> Optimizer:
    """The optimizer of a model at its peak rates.

    Args:
        rates: rates that differ from those of `schedule.GROUPS`, by group.
        batch: tokens in a step, which the rates follow.
        weight_decay: of the matrices, already scaled.
        muon: False gives the matrices to AdamW, too, as something to compare with.
    """
    hyper = {}
    for name, group in GROUPS.items():
        lr = group.rate(rates.get(name, group.lr), width=model.config.width, batch=batch)
        decay = weight_decay if name == "matrices" else group.weight_decay
        hyper[name] = Hyper(
            lr=lr, initial_lr=lr, betas=group.betas, weight_decay=decay, epsilon=group.epsilon
        )
    return Optimizer(
        model.parameter_groups(),
        hyper,
        world,
        muon=frozenset({"matrices"}) if muon else frozenset(),
        # Half precision has too few exponents for the polynomial; bf16 is enough, whatever the model computes in.
        muon_dtype=torch.bfloat16 if device.fast_bf16 else torch.float32,
        fused_adamw=device.fused_adamw,
        compiler=compiler,
    )


class LossScale:
    """For half precision: a factor on the loss that keeps small gradients above zero, found by trying.

    Doubled after 2,000 steps without overflow, halved at one, whose step is left out.
    """

    GROWTH_STEPS = 2000

    def __init__(self, active: bool) -> None:
        self.active = active
        self.value = 65536.0 if active else 1.0
        self.good_steps = 0

    def accept(self, finite: bool) -> bool:
        """Learn from a step; whether it may be taken."""
        if not self.active:
            return True
        if not finite:
            self.value, self.good_steps = max(1.0, self.value / 2), 0
            return False
        self.good_steps += 1
        if self.good_steps == self.GROWTH_STEPS:
            self.value, self.good_steps = self.value * 2, 0
        return True

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"value": self.value, "good_steps": self.good_steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The reverse of `to_dict`."""
        self.value, self.good_steps = float(state["value"]), int(state["good_steps"])


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step did; equal on all ranks but for `local_loss`."""

    loss: float
    """Mean over all ranks and passes, in nats per token."""
    local_loss: float
    norms: Mapping[str, float]
    """Of each group's gradient; empty when the step was left out for an overflow in half precision."""
    lr_factor: float
    stop: bool
    """Some rank was asked to stop."""
    position: str
    epoch: int


class Trainer:
    """Takes steps. `used.state()` is what a checkpoint keeps of the data."""

    def __init__(
        self,
        *,
        model: GPT,
        optimizer: Optimizer,
        device: Device,
        world: World,
        batches: Iterator[Batch],
        accumulation: int,
        shape: Shape,
    ) -> None:
        self.model, self.optimizer, self.device, self.world = model, optimizer, device, world
        self.accumulation, self.shape = accumulation, shape
        self.loss_scale = LossScale(model.compute_dtype == torch.float16)
        self._batches = batches
        self._used: Batch | None = None
        self._decays = {name: hyper.weight_decay for name, hyper in optimizer.hyper.items()}
        self._stop = StopRequest()
        self._next = self._fetch()
        self._taken = 0

    @property
    def used(self) -> Batch | None:
        """The last batch that went into a step."""
        return self._used

    def step(self, number: int) -> Step:
        """Take step `number`, counted from 0."""
        self.model.train()
        # Here and not at the end: until then the gradients can still be asked what was wrong with them.
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.device.torch_device)
        for _ in range(self.accumulation):
            batch, tokens = self._next
            loss = self.model(tokens[:, :-1], tokens[:, 1:])
            total += loss.detach()
            (loss * (self.loss_scale.value / self.accumulation)).backward()
            self._used = batch
            # While the device is still busy with this one.
            self._next = self._fetch()
        factor = self._set_rates(number)
        taken = self.loss_scale.accept(self._finite())
        scale = 1.0 / (self.world.size * self.loss_scale.value)
        norms = self.optimizer.step(scale) if taken else None
        self.model.keep_bounds()
        local = total / self.accumulation
        # One exchange for everything that the ranks must agree on.
        shared = self.world.sum(torch.stack((local, local.new_tensor(float(self._stop.asked)))))
        values = shared.tolist()
        self._care_for_garbage()
        assert self._used is not None
        return Step(
            loss=values[0] / self.world.size,
            local_loss=float(local),
            norms={}
            if norms is None
            else dict(zip(self.optimizer.groups, norms.tolist(), strict=True)),
            lr_factor=factor,
            stop=values[1] > 0,
            position=self._used.position,
            epoch=self._used.epoch,
        )

    def close(self) -> None:
        """Take steps no more: signals and garbage are Python's again."""
        self._stop.withdraw()
        gc.unfreeze()
        gc.enable()

    def _fetch(self) -> tuple[Batch, torch.Tensor]:
        batch = next(self._batches)
        return batch, self.device.put(torch.from_numpy(batch.tokens)).long()

    def _set_rates(self, number: int) -> float:
        factor = self.shape.multiplier(number)
        for name, hyper in self.optimizer.hyper.items():
            hyper.lr = hyper.initial_lr * factor
            if name in self.optimizer.muon:
                hyper.betas = (self.shape.muon_momentum(number), hyper.betas[1])
                hyper.weight_decay = self._decays[name] * self.shape.weight_decay(number)
        return factor

    def _finite(self) -> bool:
        """In half precision, whether all ranks' gradients are finite; elsewhere nobody asks."""
        if not self.loss_scale.active:
            return True
        sums = [p.grad.sum() for p in self.model.parameters() if p.grad is not None]
        broken = (~torch.isfinite(torch.stack([s.float() for s in sums]))).any().float()
        return float(self.world.max(broken)) == 0

    def _care_for_garbage(self) -> None:
        if self._taken == 0:
            gc.collect()
            gc.freeze()
            gc.disable()
        elif self._taken % COLLECT_EVERY == 0:
            gc.collect()
        self._taken += 1


class StopRequest:
    """SIGTERM, as batch systems send it before they kill: finish the step, save, leave."""

    def __init__(self) -> None:
        self.asked = False
        self._before = signal.signal(signal.SIGTERM, self._ask)

    def withdraw(self) -> None:
        """Let SIGTERM do what it did before."""
        signal.signal(signal.SIGTERM, self._before)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True

"""The ranks of a run: who this process is among them, and what they do together."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from nanochat.device import Device
from nanochat.errors import NanochatError, WrongUsage
from nanochat.stores import name_loopback_for_gloo, stay_on_loopback

Wait = Callable[[], None]
"""What an asynchronous collective hands back: call it before its result is used."""


def _nothing() -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class World:
    """This rank and how many there are. With one rank every method is a no-op, and no group is made."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank writes files and talks to the user."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor`, summed over ranks in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def max(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor`, the largest of all ranks in place."""
        if self.size > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor

    def sum_later(self, tensor: torch.Tensor) -> Wait:
        """Start summing `tensor` over ranks in place."""
        if self.size == 1:
            return _nothing
        return _waiter(dist.all_reduce(tensor, async_op=True))

    def scatter_sum_later(self, part: torch.Tensor, whole: torch.Tensor) -> Wait:
        """Start summing `whole` over ranks into each rank's own `part`: (n, …) out of (size·n, …)."""
        if self.size == 1:
            part.copy_(whole)
            return _nothing
        try:
            return _waiter(dist.reduce_scatter_tensor(part, whole, async_op=True))
        except RuntimeError as error:
            if "reduce_scatter" not in str(error):
                raise
        # Gloo before torch 2.7 cannot; the same sum with twice the traffic.
        work = dist.all_reduce(whole, async_op=True)

        def finish() -> None:
            work.wait()
            part.copy_(whole.narrow(0, self.rank * len(part), len(part)))

        return finish

    def gather_later(self, whole: torch.Tensor, part: torch.Tensor) -> Wait:
        """Start collecting each rank's `part` into `whole`, in order of ranks: the reverse of `scatter_sum_later`."""
        if self.size == 1:
            whole.copy_(part)
            return _nothing
        return _waiter(dist.all_gather_into_tensor(whole, part, async_op=True))

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Give every rank the values of rank 0."""
        if self.size > 1:
            dist.broadcast(tensor, src=0)

    def gather_objects(self, thing: Any) -> list[Any]:
        """The `thing` of every rank, on all of them."""
        if self.size == 1:
            return [thing]
        things: list[Any] = [None] * self.size
        dist.all_gather_object(things, thing)
        return things

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()

    def store(self) -> Any:
        """The key-value store through which the ranks found each other; None with one rank."""
        return dist.distributed_c10d._get_default_store() if self.size > 1 else None

    def close(self) -> None:
        """Leave the group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def _waiter(work: Any) -> Wait:
    def wait() -> None:
        work.wait()

    return wait


def join(device: Device, timeout: timedelta | None = None) -> World:
    """Take this process's place among the ranks that torchrun started; alone without it.

    Raises:
        WrongUsage: RANK and WORLD_SIZE are set to something impossible.
        NanochatError: the group cannot be formed.
    """
    if "RANK" not in os.environ:
        return World()
    try:
        world = World(rank=int(os.environ["RANK"]), size=int(os.environ["WORLD_SIZE"]))
    except (KeyError, ValueError):
        raise WrongUsage(
            "RANK is set, but WORLD_SIZE or RANK is no number; start several processes with torchrun, "
            "and one without either variable"
        ) from None
    if world.size == 1:
        return world
    backend = device.family.backend
    stay_on_loopback()  # without an agent, the first rank serves
    name_loopback_for_gloo()
    # NCCL and HCCL want to know their device early: otherwise the first barrier guesses it.
    bound = {"device_id": device.torch_device} if backend == "nccl" else {}
    try:
        dist.init_process_group(backend, timeout=timeout, **bound)
    except (RuntimeError, ValueError) as error:
        raise NanochatError(
            f"rank {world.rank} could not join the other ranks over {backend}: {str(error).strip().splitlines()[0]}; "
            "look at the first rank that failed, and whether MASTER_ADDR and MASTER_PORT are free"
        ) from error
    return world

"""A step of training uncompiled, compiled block by block and compiled as a whole, beside what its products alone take.

    python tests/bench/bench_compile.py [--dtype float32] [--rounds 15] DEPTH [DEPTH …]

In turns in one process, with head dimension 64, a vocabulary of 4,096 and 8 rows of 256 tokens. The limit is that of
the model's and Muon's matrix products at their own shapes, one after the other with nothing between: what a program
that did all else for free would reach.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from nanochat import attention, compiling, schedule, sizing
from nanochat import device as devices
from nanochat.config import ModelConfig
from nanochat.distributed import World
from nanochat.model import GPT
from nanochat.optim import POLAR_EXPRESS
from nanochat.training import make_optimizer

VOCAB, LENGTH, ROWS, HEAD_DIM = 4096, 256, 8, 64
WAYS = {
    "uncompiled": compiling.Compiling(None, compiling.MODEL),
    "blocks": compiling.Compiling(devices.find("cpu").compiler(), compiling.BLOCKS),
    "whole": compiling.Compiling(devices.find("cpu").compiler(), compiling.MODEL),
}


def step_of(
    way: compiling.Compiling, config: ModelConfig, dtype: torch.dtype
) -> Callable[[], None]:
    """A training step of a fresh model."""
    cpu = devices.find("cpu")
    model = GPT(config)
    model.use(
        dtype=dtype,
        embedding_dtype=cpu.embedding_dtype(dtype),
        attend=attention.choose(cpu, dtype, config.head_dim)[1],
        block_bytes=cpu.family.block_bytes,
        tile_bytes=cpu.family.tile_bytes,
    )
    cpu.seed(1)
    model.init_weights()
    way.apply(model)
    rates = {name: group.lr for name, group in schedule.GROUPS.items()}
    optimizer = make_optimizer(
        model, cpu, World(), rates=rates, batch=ROWS * LENGTH, weight_decay=0.28, compiler=way.compiler
    )  # fmt: skip
    tokens = torch.randint(0, VOCAB, (ROWS, LENGTH + 1))

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()
        model.keep_bounds()

    return step


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def least(function: Callable[[], object], times: int = 5) -> float:
    """The shortest of some calls."""
    return min(timed(function) for _ in range(times))


def products(config: ModelConfig, dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of all products of a step's passes, and of Muon's update."""
    kinds, tokens = sizing.shapes(config), ROWS * LENGTH
    layers = [*kinds["matrices"].items(), *kinds["head"].items()]
    passes = sum(
        count * linear(tokens, outputs, inputs, dtype) for (outputs, inputs), count in layers
    )
    muon = sum(
        count * len(POLAR_EXPRESS) * orthogonalising(min(shape), max(shape))
        for shape, count in kinds["matrices"].items()
    )
    return passes, muon


def linear(tokens: int, outputs: int, inputs: int, dtype: torch.dtype) -> float:
    """Seconds of a layer's product and of those that make its two gradients."""
    x, grad = torch.randn(tokens, inputs, dtype=dtype), torch.randn(tokens, outputs, dtype=dtype)
    weight = torch.randn(outputs, inputs, dtype=dtype)
    return least(lambda: x @ weight.T) + least(lambda: grad @ weight) + least(lambda: grad.T @ x)


def orthogonalising(short: int, long: int) -> float:
    """Seconds of the products of one step of the polynomial, for one matrix, in single precision."""
    x, square = torch.randn(short, long), torch.randn(short, short)
    return least(lambda: x @ x.T) + least(lambda: square @ square) + least(lambda: square @ x)


def main() -> None:
    """One line for each depth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("depths", type=int, nargs="+")
    args = parser.parse_args()
    dtype = devices.find("cpu").dtype(args.dtype)
    for depth in args.depths:
        config = ModelConfig.from_depth(
            depth, vocab_size=VOCAB, sequence_len=LENGTH, head_dim=HEAD_DIM
        )
        steps = {name: step_of(way, config, dtype) for name, way in WAYS.items()}
        first = {name: timed(step) for name, step in steps.items()}
        seconds = {name: [timed(step) for _ in range(3)][-1:] for name, step in steps.items()}
        for _ in range(args.rounds):
            for name, step in steps.items():
                seconds[name].append(timed(step))
        passes, muon = products(config, dtype)
        tokens = ROWS * LENGTH
        limit = passes + muon
        share = muon / limit
        print(
            f"depth {depth}: products alone {tokens / limit:,.0f} tok/s (Muon {share:.0%} of them)"
        )
        for name in steps:
            best, middle = min(seconds[name]), sorted(seconds[name])[len(seconds[name]) // 2]
            print(
                f"  {name:10} {tokens / best:8,.0f} tok/s, {limit / best:.0%} of the limit; "
                f"median {tokens / middle:,.0f}; first step {first[name]:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()

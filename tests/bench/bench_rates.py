"""Which rates, batch and warm-up serve small models best: bits per byte after the tokens of the smoke profile.

    NANOCHAT_BASE_DIR=FOLDER python tests/bench/bench_rates.py [--threads 2] [--seeds 1 2 3] [SETTING ...]

FOLDER holds a tokenizer (`python -m scripts.tok_train --data stdlib --vocab-size 4096`). A SETTING is `name=value,…`,
of the fields of `Trial`; without any, those of `GRID`. A rate is what `nanochat.schedule` gives, times this.

What came of it is in `RESULTS`: depth 2, width 128, 256 tokens a row, 614,400 tokens, single precision, one seed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from nanochat import attention, schedule, sizing
from nanochat import device as devices
from nanochat.config import ModelConfig
from nanochat.dataloader import CUT, TokenLoader
from nanochat.dataset import resolve
from nanochat.distributed import World
from nanochat.evaluation import text_bpb
from nanochat.model import GPT
from nanochat.plan import REFERENCE_DEPTH, USUAL_RATIO
from nanochat.tokenizer import Tokenizer
from nanochat.training import Trainer, make_optimizer

RESULTS = """
rates of public nanochat (square root of the batch), 40 steps of warm-up, 4,096 x 150       2.048
all rates x 3, 10 steps of warm-up, 4,096 x 150                                             1.742
all rates x 3, 20 steps of warm-up, 1,024 x 600                                             1.712
the rules as they are now (fourth root below 2^18, a tenth of warm-up), 4,096 x 150         1.702

The first three left no document's rest out (packing all); with packing cut the first gives 2.014. The last is the smoke
profile itself, with packing cut.
"""


@dataclass(frozen=True)
class Trial:
    """One run."""

    depth: int = 2
    head_dim: int = 64
    length: int = 256
    tokens: int = 614_400
    batch: int = 4096
    rows: int = 4
    dtype: str = "float32"
    data: str = "stdlib"
    packing: str = CUT
    warmup: int = -1
    warmdown: float = 0.65
    final: float = 0.05
    seed: int = 42
    rates_for: int = 0
    """Rates as for a batch of so many tokens, with the noise of `batch`; 0: of `batch`, too."""
    lr: float = 1.0
    """On all rates; those below on one group's alone."""
    matrices: float = 1.0
    embedding: float = 1.0
    value_embeddings: float = 1.0
    head: float = 1.0
    scales: float = 1.0

    def rates(self) -> dict[str, float]:
        """Peak rates by group, at the reference."""
        return {
            name: group.lr * self.lr * getattr(self, name, self.scales)
            for name, group in schedule.GROUPS.items()
        }


GRID = (
    Trial(),
    Trial(lr=2),
    Trial(lr=0.5),
    Trial(matrices=2),
    Trial(embedding=2, value_embeddings=2),
    Trial(head=2),
    Trial(scales=2),
    Trial(batch=2048),
    Trial(batch=1024),
    Trial(warmdown=0.4),
)


SCALES = (
    *tuple(
        Trial(length=64, batch=256, rates_for=2**power, tokens=256 * steps)
        for steps in (20, 200, 2_000)
        for power in (10, 14, 18, 21)
    ),
    Trial(length=64, batch=256, rates_for=2**18, tokens=256 * 20_000),
)
"""Where scales and gates end up, from the smallest batch to the largest and over runs of any length (`--scales`)."""


def shape(trial: Trial, vocab_size: int, depth: int) -> ModelConfig:
    """The model of a trial, or another depth of it."""
    return ModelConfig.from_depth(
        depth, vocab_size=vocab_size, sequence_len=trial.length, head_dim=trial.head_dim
    )


def scales(model: GPT) -> str:
    """The smallest and the largest of each kind of scale, and the largest weight of a gate."""
    found = {
        "residual": model.residual_scale, "embedding": model.embedding_scale, "smear": model.smear_scale,
        "backout": model.backout_scale, "smear gate": model.smear_gate.weight,
    }  # fmt: skip
    gates = [b.attention.value_gate for b in model.blocks if b.attention.value_gate is not None]
    found["value gates"] = torch.cat([gate.weight.flatten() for gate in gates])
    return ", ".join(f"{name} {v.min():.2f} to {v.max():.2f}" for name, v in found.items())


def run(trial: Trial) -> tuple[float, float, str]:
    """Bits per byte of held-out text after a trial, the seconds that its steps took, and where its scales are."""
    cpu, tokenizer, world = devices.find("cpu"), Tokenizer.load(), World()
    data = resolve(trial.data, say=lambda _: None)
    config = shape(trial, tokenizer.vocab_size, trial.depth)
    dtype = cpu.dtype(trial.dtype)
    model = GPT(config)
    model.use(
        dtype=dtype,
        embedding_dtype=cpu.embedding_dtype(dtype),
        attend=attention.choose(cpu, dtype, config.head_dim)[1],
        block_bytes=cpu.family.block_bytes,
        tile_bytes=cpu.family.tile_bytes,
    )
    cpu.seed(trial.seed)
    model.init_weights()
    scaling = sizing.parameters(config).scaling
    reference = sizing.parameters(shape(trial, tokenizer.vocab_size, REFERENCE_DEPTH)).scaling
    decay = schedule.muon_weight_decay(
        schedule.GROUPS["matrices"].weight_decay,
        trial.batch,
        USUAL_RATIO * scaling,
        USUAL_RATIO * reference,
    )
    optimizer = make_optimizer(
        model, cpu, world, rates=trial.rates(), batch=trial.rates_for or trial.batch, weight_decay=decay,
        compiler=None,
    )  # fmt: skip
    steps = trial.tokens // trial.batch
    with TokenLoader(
        data.train, tokenizer, rows=trial.rows, length=trial.length, packing=trial.packing
    ) as loader:
        trainer = Trainer(
            model=model,
            optimizer=optimizer,
            device=cpu,
            world=world,
            batches=loader,
            accumulation=trial.batch // (trial.rows * trial.length),
            shape=schedule.Shape(
                steps=steps,
                warmup_steps=schedule.warmup_steps(steps) if trial.warmup < 0 else trial.warmup,
                warmdown_ratio=trial.warmdown,
                final_fraction=trial.final,
            ),
        )
        began = time.perf_counter()
        for step in range(steps):
            trainer.step(step)
        seconds = time.perf_counter() - began
        trainer.close()
    bpb = text_bpb(
        model, tokenizer, [data.validation], device=cpu, world=world, rows=trial.rows, length=trial.length,
        tokens=65_536,
    )  # fmt: skip
    return bpb, seconds, scales(model)


def parse(text: str) -> Trial:
    """`batch=1024,lr=2` -> a trial."""
    plain = Trial()
    given = dict(pair.split("=", 1) for pair in text.split(",") if pair)
    return replace(plain, **{name: type(getattr(plain, name))(v) for name, v in given.items()})


def wanted(trials: Iterable[Trial], seeds: list[int]) -> Iterator[Trial]:
    """The trials, with each seed."""
    for trial in trials:
        for seed in seeds or [trial.seed]:
            yield replace(trial, seed=seed)


def main() -> None:
    """Run the trials and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seeds", type=int, nargs="*", default=[])
    parser.add_argument("--scales", action="store_true", help="the trials of SCALES")
    parser.add_argument("settings", nargs="*")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    given = [parse(text) for text in args.settings]
    for trial in wanted(given or (SCALES if args.scales else GRID), args.seeds):
        bpb, seconds, ends = run(trial)
        told = [f"{k}={v}" for k, v in vars(trial).items() if v != getattr(Trial, k)]
        print(
            f"{bpb:.4f}  {seconds:6.1f} s  {', '.join(told) or 'the rules as they are'}", flush=True
        )
        if args.scales:
            print(f"    {ends}", flush=True)


if __name__ == "__main__":
    main()

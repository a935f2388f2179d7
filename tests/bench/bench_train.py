"""How small and how good pretraining is, next to its alternatives, in one run; how fast: bench_upstream, bench_compile.

    python tests/bench/bench_train.py --data FOLDER [--only memory quality ranks]

FOLDER holds shards with a column `text`. The setting is one at which public nanochat is known: depth 4, head dim 64,
512 tokens a row, 4 rows a pass, 2,048 tokens a step, a vocabulary of 32,768. Peers:

- memory: the same step with whole logits;
- quality: plain AdamW for all parameters at several rates, after as many tokens, and both number types;
- ranks: one process against two, step by step.

Whole processes are started; steps are timed by the trainer, and the median of the last half counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
VOCAB, LENGTH, ROWS, TOTAL = 32768, 512, 4, 2048
SETTING = (
    "--depth=4", "--head-dim=64", f"--max-seq-len={LENGTH}", f"--device-batch-size={ROWS}",
    f"--total-batch-size={TOTAL}",
)  # fmt: skip
QUIET = ("--eval-every=-1", "--core-metric-every=-1", "--sample-every=-1")
ADAMW_RATES = (0.001, 0.003, 0.01)


@dataclass(frozen=True)
class Ran:
    """What a training process did."""

    rate: float
    """Tokens per second, median of the last half of its steps."""
    losses: list[float]
    bpb: list[float]


class Bench:
    """Runs training processes in a base folder of its own."""

    def __init__(self, data: Path, base: Path) -> None:
        self.data, self.base, self.count = data, base, 0
        self.env = {**os.environ, "NANOCHAT_BASE_DIR": str(base), "PYTHONPATH": str(REPO)}
        self._python("-m", "scripts.tok_train", f"--data={data}", f"--vocab-size={VOCAB}")

    def _python(self, *words: str) -> None:
        subprocess.run(
            [sys.executable, *words], cwd=REPO, env=self.env, check=True, capture_output=True
        )

    def train(self, *flags: str, ranks: int = 1) -> Ran:
        """One run of base_train at the setting, with other flags on top."""
        self.count += 1
        tag = f"bench{self.count}"
        launcher = (
            [sys.executable]
            if ranks == 1
            else [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc_per_node={ranks}",
            ]
        )
        words = [
            *launcher,
            "-m",
            "scripts.base_train",
            f"--data={self.data}",
            f"--model-tag={tag}",
            *SETTING,
            *flags,
        ]
        subprocess.run(words, cwd=REPO, env=self.env, check=True, capture_output=True)
        records = [
            json.loads(line)
            for line in (self.base / "base_checkpoints" / tag / "metrics.jsonl").open()
        ]
        steps = [r for r in records if "train/raw_loss" in r]
        rates = [r["train/tok_per_sec"] for r in steps]
        return Ran(
            rate=statistics.median(rates[len(rates) // 2 :]),
            losses=[r["train/raw_loss"] for r in steps],
            bpb=[r["val/bpb"] for r in records if "val/bpb" in r],
        )


def memory(_bench: Bench, _args: argparse.Namespace) -> None:
    """The allocator's peak of a step, with logits in blocks and whole."""
    sys.path[:0] = [str(REPO), str(REPO / "tests/nanochat")]
    from memory_meter import measure

    from nanochat.config import ModelConfig
    from nanochat.sizing import Setting

    print("\nmemory, allocator's peak of a step in single precision")
    config = ModelConfig.from_depth(4, vocab_size=VOCAB, sequence_len=LENGTH, head_dim=64)
    everything = 1 << 40
    for rows in (4, 16):
        blocks = measure(Setting(config=config, rows=rows, dtype="float32")).peak
        whole = measure(
            Setting(
                config=config,
                rows=rows,
                dtype="float32",
                block_bytes=everything,
                tile_bytes=everything,
            )
        ).peak
        print(
            f"{rows:3d} rows: {blocks / 2**20:6.0f} MiB in blocks, {whole / 2**20:6.0f} MiB whole, {blocks / whole:.0%}"
        )


def quality(bench: Bench, args: argparse.Namespace) -> None:
    """Validation bits per byte after the same tokens."""
    print(f"\nquality, bits per byte after {args.quality_steps} steps of 8,192 tokens")
    common = (
        f"--num-iterations={args.quality_steps}", "--total-batch-size=8192", "--eval-every=100000",
        "--eval-tokens=262144", "--core-metric-every=-1", "--sample-every=-1",
    )  # fmt: skip
    for name, flags in {
        "muon float32": ("--dtype=float32",),
        "muon bfloat16": ("--dtype=bfloat16",),
        **{
            f"adamw {rate}": ("--optimizer=adamw", f"--matrix-lr={rate}", "--dtype=bfloat16")
            for rate in ADAMW_RATES
        },
    }.items():
        print(f"{name:16s} {bench.train(*common, *flags).bpb[-1]:.4f}", flush=True)


def ranks(bench: Bench, _args: argparse.Namespace) -> None:
    """The largest difference between the losses of one process and of two."""
    flags = ("--num-iterations=12", "--dtype=float32", "--device-batch-size=2", *QUIET)
    one, two = bench.train(*flags), bench.train(*flags, ranks=2)
    worst = max(abs(a - b) for a, b in zip(one.losses, two.losses, strict=True))
    print(
        f"\nranks: over 12 steps the losses of 1 and 2 differ by {worst:.2g} at most; "
        f"{one.rate:,.0f} and {two.rate:,.0f} tok/s"
    )


PARTS = {part.__name__: part for part in (memory, quality, ranks)}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument("--quality-steps", type=int, default=150)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-train-") as base:
        bench = Bench(args.data, Path(base))
        for name in args.only:
            PARTS[name](bench, args)


if __name__ == "__main__":
    main()

"""How fast, how small and how good pretraining is, next to its alternatives, in one run.

    python tests/bench/bench_train.py --data FOLDER [--upstream DIR] [--only speed memory quality ranks]

FOLDER holds shards with a column `text`. The setting is one at which upstream nanochat is known: depth 4, head dim 64,
512 tokens a row, 4 rows a pass, 2,048 tokens a step, a vocabulary of 32,768. Peers:

- speed: a checkout of upstream nanochat (--upstream, prepared with its own tokenizer and data under its
  NANOCHAT_BASE_DIR; without it that row is left out aloud), and this trainer in single precision;
- memory: the same step with whole logits;
- quality: plain AdamW for all parameters at several rates, after as many tokens, and both number types;
- ranks: one process against two, step by step.

Whole processes are started, in turns; steps are timed by the trainer, and the median of the last half counts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
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
    first_step: float
    """Seconds from the start of the process to the end of its first step."""
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
        first, _ = timed_first_step(words, REPO, self.env, "step 0")
        records = [
            json.loads(line)
            for line in (self.base / "base_checkpoints" / tag / "metrics.jsonl").open()
        ]
        steps = [r for r in records if "train/raw_loss" in r]
        rates = [r["train/tok_per_sec"] for r in steps]
        return Ran(
            rate=statistics.median(rates[len(rates) // 2 :]),
            first_step=first,
            losses=[r["train/raw_loss"] for r in steps],
            bpb=[r["val/bpb"] for r in records if "val/bpb" in r],
        )

    def upstream(self, folder: Path, steps: int) -> Ran:
        """The same of a checkout of upstream nanochat, in the environment that is active there."""
        python = folder / ".venv/bin/python"
        words = [
            str(python if python.exists() else sys.executable), "-m", "scripts.base_train", *SETTING,
            f"--num-iterations={steps}", *QUIET, "--window-pattern=SSSL", "--device-type=cpu",
        ]  # fmt: skip
        first, output = timed_first_step(words, folder, dict(os.environ), "step 00000")
        rates = [float(n.replace(",", "")) for n in re.findall(r"tok/sec: ([\d,]+)", output)]
        return Ran(statistics.median(rates[len(rates) // 2 :]), first, [], [])


def timed_first_step(
    words: Sequence[str], cwd: Path, env: dict[str, str], mark: str
) -> tuple[float, str]:
    """Run a process to its end: seconds until a line begins with `mark`, and all that it said."""
    began, first, lines = time.monotonic(), 0.0, []
    process = subprocess.Popen(
        words, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if not first and line.startswith(mark):
            first = time.monotonic() - began
    if process.wait() != 0:
        sys.exit("".join(lines[-20:]))
    return first, "".join(lines)


PRODUCT = """
import time, torch
for dtype in (torch.float32, torch.bfloat16):
    left, right = torch.randn(2048, 256).to(dtype), torch.randn(256, 32768).to(dtype)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - began)
    print(f"{2 * 2048 * 256 * 32768 / min(times) / 1e9:.0f} GFLOP/s in {dtype}".replace("torch.", ""), end=" ")
"""


def product_speeds() -> str:
    """What this machine multiplies at, in words: machines of one name differ from day to day."""
    done = subprocess.run(
        [sys.executable, "-c", PRODUCT], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def speed(bench: Bench, args: argparse.Namespace) -> None:
    """Tokens per second in steady state, and the time to the first step."""
    print(f"\nspeed, {args.steps} steps each, median of {args.repeats} runs in turns")
    print(f"this machine now: {product_speeds()} (the head's product; compare days by it)")
    contestants: dict[str, Callable[[], Ran]] = {}
    if args.upstream:
        contestants["upstream"] = lambda: bench.upstream(args.upstream, args.steps)
    else:
        print("upstream nanochat left out: no --upstream DIR")
    for dtype in ("float32", "bfloat16"):
        flags = (f"--dtype={dtype}", f"--num-iterations={args.steps}", *QUIET)
        contestants[dtype] = lambda flags=flags: bench.train(*flags)
    runs: dict[str, list[Ran]] = {name: [] for name in contestants}
    for _ in range(args.repeats):
        for name, train in contestants.items():
            runs[name].append(train())
    rates = {name: statistics.median(r.rate for r in ran) for name, ran in runs.items()}
    reference = rates.get("upstream", rates["float32"])
    for name, ran in runs.items():
        spread = f"{min(r.rate for r in ran):,.0f} to {max(r.rate for r in ran):,.0f}"
        first = statistics.median(r.first_step for r in ran)
        print(
            f"{name:10s} {rates[name]:8,.0f} tok/s ({spread})  {rates[name] / reference:5.2f}x  "
            f"first step {first:5.1f} s"
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


PARTS = {part.__name__: part for part in (speed, memory, quality, ranks)}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument(
        "--upstream", type=lambda text: Path(text).resolve(), help="a checkout of upstream nanochat"
    )
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quality-steps", type=int, default=150)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-train-") as base:
        bench = Bench(args.data, Path(base))
        for name in args.only:
            PARTS[name](bench, args)


if __name__ == "__main__":
    main()

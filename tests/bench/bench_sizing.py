#!/usr/bin/env python
"""Predicted against measured memory of a training step, and its time, over depth and batch, on the CPU.

python tests/bench/bench_sizing.py [--depths 2,4,6,8] [--rows 1,4] [--lengths 512] [--dtypes float32,bfloat16]
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO), str(REPO / "tests" / "nanochat")]

from memory_meter import measure, seconds  # noqa: E402

from nanochat import sizing  # noqa: E402
from nanochat.config import ModelConfig  # noqa: E402

MIB = 1 << 20


def words(text: str) -> list[str]:
    """`a,b` as a list."""
    return text.split(",")


def main() -> int:
    """Print the table; 1 if a prediction is off by more than a tenth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--depths", type=words, default=words("2,4,6,8"))
    parser.add_argument("--rows", type=words, default=words("1,4"))
    parser.add_argument("--lengths", type=words, default=words("512"))
    parser.add_argument("--dtypes", type=words, default=words("float32,bfloat16"))
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--head-dim", type=int, default=64)
    args = parser.parse_args()
    print(f"{'dtype':9} {'depth':>5} {'rows':>4} {'length':>6} {'parameters':>10} {'predicted':>9} {'measured':>9} "
          f"{'ratio':>6} {'s/step':>7} {'tokens/s':>8} {'GFLOP/s':>7}  largest at")  # fmt: skip
    worst = 0.0
    for dtype, depth, length, rows in itertools.product(
        args.dtypes, map(int, args.depths), map(int, args.lengths), map(int, args.rows)
    ):
        config = ModelConfig.from_depth(
            depth, vocab_size=args.vocab_size, sequence_len=length, head_dim=args.head_dim
        )
        setting = sizing.Setting(config=config, rows=rows, dtype=dtype)
        predicted, measured = sizing.memory(setting), measure(setting)
        ratio = predicted.peak / measured.peak
        worst = max(worst, abs(ratio - 1))
        duration = seconds(setting)
        speed = setting.tokens / duration
        flops = speed * sizing.flops_per_token(config)
        print(f"{dtype:9} {depth:5} {rows:4} {length:6} {sizing.parameters(config).total / 1e6:9.1f}M "
              f"{predicted.peak / MIB:6.0f}MiB {measured.peak / MIB:6.0f}MiB {ratio:6.3f} {duration:7.2f} "
              f"{speed:8.0f} {flops / 1e9:7.0f}  {predicted.worst}", flush=True)  # fmt: skip
    print(f"largest error {worst:.1%}")
    return int(worst > 0.1)


if __name__ == "__main__":
    sys.exit(main())

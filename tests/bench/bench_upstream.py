"""Pretraining beside a checkout of public nanochat: same text, tokens, tokenizer and shape, in one run.

    bench_upstream.py --upstream CLONE --python PYTHON --work FOLDER --text NAME=PARQUET,… [SETTING …]

PYTHON has what both need: torch, tiktoken, pyarrow, numpy, pyyaml, safetensors, filelock, psutil, requests, wandb and
this checkout's `rustbpe`. A SETTING is `name=value,…` of the fields of `Setting`. Every setting runs with each seed for
each of WHO, in turns: both start from the script that their users start, with its defaults but for the setting. Both
checkpoints are then judged on the very same rows of held-out text in single precision, so that another packing does not
count as another quality. Finished runs are kept in FOLDER/runs.jsonl and not done again.

On a GPU: --gpu --who ours ours-whole upstream --seeds 1 --peak-tflops 989 (an H100's in bf16), half an hour.

With --jobs 1 speeds count: tokens/s is of the median step, «best» of the tenth-best, which is what a program can do on
a machine that others use too.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

RESULTS = """
Bits per byte of held-out text, mean and standard deviation of three seeds; karpathy/nanochat 92d63d4, uncompiled
(upstream-eager), single precision, one thread each on two cores of an AMD EPYC without bf16 units; 256 tokens a row, a
vocabulary of 4,096, width 128 at both depths; default flags of both, so that upstream warms up over 40 steps.

depth  tokens a step  steps   prose: ours        upstream            mixed: ours        upstream
2      2,048          40      2.7148 ± 0.0031    3.1186 ± 0.0027     2.9382 ± 0.0044    3.5292 ± 0.0072
4      2,048          40      2.7302 ± 0.0022    3.3566 ± 0.1505     2.9829 ± 0.0067    3.6914 ± 0.1836
2      8,192          24      2.5825 ± 0.0041    3.1822 ± 0.0040     2.7468 ± 0.0043    3.6014 ± 0.0086
4      8,192          12      2.8674 ± 0.0145    3.4724 ± 0.0009     3.1927 ± 0.0118    3.9390 ± 0.0011
2      65,536         6       2.7616 ± 0.0061    3.4723 ± 0.0009     3.0340 ± 0.0025    3.9374 ± 0.0007

Not run: depth 4 at 65,536, bf16 (this processor multiplies it at a 58th of the rate of single precision), any GPU.
"""

HERE = Path(__file__).resolve()
OURS = HERE.parents[2]
QUIET = ("--eval-every=-1", "--core-metric-every=-1", "--sample-every=-1")
JUDGED = 65_536
"""Tokens of held-out text."""
UPSTREAM_SHARDS = "base_data_climbmix"


@dataclass(frozen=True)
class Setting:
    """One run, but for whose."""

    depth: int = 2
    head_dim: int = 64
    aspect: int = 64
    length: int = 256
    rows: int = 8
    batch: int = 2048
    steps: int = 40
    dtype: str = "float32"
    vocab: int = 4096
    text: str = ""
    seed: int = 42
    device: str = "cpu"
    flags: str = ""
    """More of them for both, separated by blanks."""


# --- what runs inside the two programs' interpreters ----------------------------------------------


def inside_train(seed: str, *argv: str) -> None:
    """base_train with a seed; upstream's is fixed."""
    import runpy

    import torch

    plain = torch.manual_seed
    torch.manual_seed = lambda _: plain(int(seed))
    sys.argv = ["base_train", *argv]
    runpy.run_module("scripts.base_train", run_name="__main__", alter_sys=True)


def inside_split(folder: str, *files: str) -> None:
    """Parquet files -> a training and a validation shard, a tenth of the documents for the latter."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [t for f in files for t in pq.read_table(f, columns=["text"])["text"].to_pylist() if t]
    cut = len(texts) * 9 // 10
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, part in (("shard_00000", texts[:cut]), ("shard_00001", texts[cut:])):
        pq.write_table(pa.table({"text": part}), f"{folder}/{name}.parquet", row_group_size=256)


def inside_hand_over(base: str) -> None:
    """Our tokenizer -> the pickled encoding and byte counts that upstream reads: the same ids."""
    import pickle

    import tiktoken
    import torch

    from nanochat.tokenizer import SPECIALS, Tokenizer

    ours = Tokenizer.load()
    ranks = {bytes(token): rank for token, rank in ours.core.get_mergeable_ranks()}
    encoding = tiktoken.Encoding(
        "shared",
        pat_str=ours.core.get_pattern(),
        mergeable_ranks=ranks,
        special_tokens={name: len(ranks) + i for i, name in enumerate(SPECIALS)},
    )
    text = "def f(x):\n    return 'Straße 12345 漢字' # 😀 \r\n\t  end"
    if encoding.encode_ordinary(text) != ours.encode(text) or encoding.n_vocab != ours.vocab_size:
        sys.exit("the two tokenizers differ")
    with open(f"{base}/tokenizer/tokenizer.pkl", "wb") as file:
        pickle.dump(encoding, file)
    torch.save(torch.from_numpy(ours.byte_lengths().copy()), f"{base}/tokenizer/token_bytes.pt")


def inside_rows(out: str, shard: str, length: str) -> None:
    """Held-out text as one stream, cut into rows, each behind BOS: neither program's packing."""
    import numpy as np
    import pyarrow.parquet as pq

    from nanochat.tokenizer import Tokenizer

    tokenizer = Tokenizer.load()
    ids: list[int] = []
    for text in pq.read_table(shard)["text"].to_pylist():
        ids += tokenizer.encode(text)
        if len(ids) > JUDGED:
            break
    size = int(length)
    body = np.array(ids[: min(len(ids), JUDGED) // size * size], np.int64).reshape(-1, size)
    rows = np.concatenate([np.full((len(body), 1), tokenizer.bos), body], axis=1)
    np.savez(out, rows=rows, lengths=tokenizer.byte_lengths())


def inside_judge(who: str, folder: str, table: str) -> None:
    """Bits per byte of the last checkpoint of a folder, in single precision."""
    import math

    import numpy as np
    import torch

    meta_path = max(Path(folder).glob("meta_*.json"))
    meta = json.loads(meta_path.read_text())
    weights = meta_path.with_name(meta_path.name.replace("meta", "model").replace("json", "pt"))
    state = {k.removeprefix("_orig_mod."): v.float() for k, v in torch.load(weights).items()}
    model: Any
    if who == "ours":
        from nanochat.config import ModelConfig
        from nanochat.model import GPT

        model, how = GPT(ModelConfig.from_dict(meta["model_config"])), "reduction"
    else:
        from nanochat.gpt import GPT as Theirs
        from nanochat.gpt import GPTConfig

        model, how = Theirs(GPTConfig(**meta["model_config"])), "loss_reduction"
    model.load_state_dict(state)
    model.eval()
    loaded = np.load(table)
    rows, lengths = torch.from_numpy(loaded["rows"]), torch.from_numpy(loaded["lengths"])
    nats = size = 0.0
    with torch.no_grad():
        for part in rows.split(8):
            x, y = part[:, :-1].contiguous(), part[:, 1:].contiguous()
            nats += float(model(x, y, **{how: "none"}).sum())
            size += float(lengths[y].sum())
    print(json.dumps(nats / math.log(2) / size))


# --- the driver -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Who:
    """A way to train."""

    ours: bool
    flags: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


WHO = {
    "ours": Who(ours=True),
    "ours-compiled": Who(ours=True, flags=("--compile=on",)),
    "upstream": Who(ours=False),
    "ours-whole": Who(ours=True, flags=("--compile=model",)),
    "upstream-eager": Who(ours=False, env=(("TORCHDYNAMO_DISABLE", "1"),)),
}

GPU = [
    f"device=cuda,depth={depth},head_dim=128,length=2048,rows={rows},batch=524288,steps=12,dtype=bfloat16,vocab=32768,flags={flags}"
    for depth, rows in ((12, 32), (20, 16))
    for flags in ("", "--fp8")
]
"""What half an hour of one card is enough for, with `--seeds 1 --who ours ours-whole upstream`."""


def share_of_peak(setting: Setting, rate: float, peak: float) -> float:
    """Of a device's FLOP/s, what training at a rate of tokens/s uses."""
    from nanochat import sizing
    from nanochat.config import ModelConfig

    config = ModelConfig.from_depth(
        setting.depth, vocab_size=setting.vocab, sequence_len=setting.length,
        aspect_ratio=setting.aspect, head_dim=setting.head_dim,
    )  # fmt: skip
    return sizing.flops_per_token(config) * rate / peak


class Bench:
    """Runs of both programs in one work folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.work = Path(args.work).resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.theirs = Path(args.upstream).resolve()
        self.kept = self.work / "runs.jsonl"
        self.lock = threading.Lock()
        lines = self.kept.read_text().splitlines() if self.kept.exists() else []
        self.done = {(r["who"], Setting(**r["setting"])): r for r in map(json.loads, lines)}
        self.texts = dict(pair.split("=", 1) for pair in args.text)

    def base(self, setting: Setting) -> Path:
        """NANOCHAT_BASE_DIR of a text and a vocabulary."""
        return self.work / f"{setting.text}-{setting.vocab}"

    def table(self, setting: Setting) -> Path:
        """What is judged on."""
        return self.base(setting) / f"rows{setting.length}.npz"

    def env(self, where: Path, setting: Setting, threads: int) -> dict[str, str]:
        """Nothing of the caller's own settings."""
        mine = ("NANOCHAT", "OMP", "GOMP", "TORCH", "MKL")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(mine)}
        return kept | {
            "NANOCHAT_BASE_DIR": str(self.base(setting)), "PYTHONPATH": str(where), "PYTHONUNBUFFERED": "1",
            "WANDB_MODE": "disabled", "TORCHINDUCTOR_CACHE_DIR": str(self.work / "inductor"),
            "OMP_NUM_THREADS": str(threads), "NANOCHAT_DTYPE": setting.dtype,
        }  # fmt: skip

    def inside(self, where: Path, setting: Setting, name: str, *words: str | Path) -> str:
        """One of the functions above, with a program's modules."""
        command = [self.args.python, str(HERE), "--inside", name, *map(str, words)]
        env = self.env(where, setting, self.args.threads)
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout

    def prepare(self, setting: Setting) -> None:
        """Shards, tokenizer and rows for judging, where they are not there yet."""
        base = self.base(setting)
        shards = base / UPSTREAM_SHARDS
        if not (base / "tokenizer" / "token_bytes.pt").exists():
            self.inside(OURS, setting, "split", shards, *self.texts[setting.text].split(","))
            subprocess.run(
                [self.args.python, "-m", "scripts.tok_train", f"--vocab-size={setting.vocab}", f"--data={shards}"],
                cwd=OURS, env=self.env(OURS, setting, self.args.threads), check=True, capture_output=True,
            )  # fmt: skip
            self.inside(OURS, setting, "hand_over", base)
        if not self.table(setting).exists():
            shard = shards / "shard_00001.parquet"
            self.inside(OURS, setting, "rows", self.table(setting), shard, str(setting.length))

    def run(self, name: str, setting: Setting) -> None:
        """One training and its judgement, unless there is one."""
        if (name, setting) in self.done:
            return
        who = WHO[name]
        where = OURS if who.ours else self.theirs
        tag = f"{name}-{zlib.crc32(repr(setting).encode()):08x}"
        s = setting
        flags = [
            f"--depth={s.depth}", f"--head-dim={s.head_dim}", f"--aspect-ratio={s.aspect}", f"--max-seq-len={s.length}",
            f"--device-batch-size={s.rows}", f"--total-batch-size={s.batch}", f"--num-iterations={s.steps}",
            f"--model-tag={tag}", f"--device-type={s.device}", *QUIET, *s.flags.split(), *who.flags,
        ]  # fmt: skip
        if who.ours:
            flags.append(f"--data={self.base(s) / UPSTREAM_SHARDS}")
        command = [self.args.python, str(HERE), "--inside", "train", str(s.seed), *flags]
        env = self.env(where, s, self.args.threads) | dict(who.env)
        began = time.perf_counter()
        seen: list[float] = []
        tail: list[str] = []
        with subprocess.Popen(
            command, cwd=where, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as child:
            assert child.stdout
            for line in child.stdout:
                tail = [*tail[-30:], line]
                if re.match(r"step 0*\d+/", line):
                    seen.append(time.perf_counter() - began)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        if status or len(seen) != s.steps:
            sys.exit(f"{' '.join(command)} ended with {status} after {len(seen)}\n{''.join(tail)}")
        steady = [b - a for a, b in itertools.pairwise(seen)][s.steps // 4 :]
        folder = self.base(s) / "base_checkpoints" / tag
        judged = self.inside(
            where, s, "judge", "ours" if who.ours else "theirs", folder, self.table(s)
        )
        shutil.rmtree(folder)
        self.keep({
            "who": name, "setting": asdict(s), "bpb": float(judged),
            "tok_s": s.batch / statistics.median(steady), "best_tok_s": s.batch / sorted(steady)[len(steady) // 10],
            "first_s": seen[0], "last_s": seen[-1], "peak_mib": usage.ru_maxrss / 1024,
            "threads": self.args.threads, "load": os.getloadavg()[0],
        })  # fmt: skip

    def keep(self, result: dict[str, Any]) -> None:
        """Remember and tell."""
        with self.lock:
            self.done[result["who"], Setting(**result["setting"])] = result
            with self.kept.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(
                f"{result['who']:14} {told(Setting(**result['setting']))}: {figures([result])}",
                flush=True,
            )


def told(setting: Setting) -> str:
    """What is not as usual in a setting."""
    return " ".join(f"{k}={v}" for k, v in asdict(setting).items() if v != getattr(Setting, k))


def figures(runs: list[dict[str, Any]], peak: float = 0.0) -> str:
    """The middle of some runs, and how far their bits per byte spread."""
    bpb = [r["bpb"] for r in runs]
    middle = {
        k: statistics.median(r[k] for r in runs)
        for k in ("tok_s", "best_tok_s", "first_s", "last_s")
    }
    spread = f" ± {statistics.stdev(bpb):.4f}" if len(bpb) > 1 else ""
    share = share_of_peak(Setting(**runs[0]["setting"]), middle["tok_s"], peak) if peak else 0.0
    used = f", {share:.1%} of peak" if peak else ""
    return (
        f"{statistics.fmean(bpb):.4f}{spread} bits per byte, {middle['tok_s']:,.0f} tok/s "
        f"(best {middle['best_tok_s']:,.0f}){used}, first step {middle['first_s']:.1f} s, last {middle['last_s']:.1f} s"
    )


def parse(text: str) -> Setting:
    """`depth=4,batch=8192` -> a setting."""
    given = dict(pair.split("=", 1) for pair in text.split(",") if pair)
    return Setting(**{name: type(getattr(Setting, name))(v) for name, v in given.items()})


def main() -> None:
    """Run what is not there yet, then print a table."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--upstream", required=True)
    p.add_argument("--python", default=sys.executable)
    p.add_argument("--work", required=True)
    p.add_argument("--text", action="append", required=True, metavar="NAME=PARQUET,…")
    p.add_argument("--who", nargs="+", default=["ours", "upstream"], choices=WHO)
    p.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--jobs", type=int, default=1)
    p.add_argument("--gpu", action="store_true", help="the settings of GPU")
    p.add_argument("--peak-tflops", type=float, default=0.0, help="of the device, for its share")
    p.add_argument("settings", nargs="*", default=[""], metavar="SETTING")
    args = p.parse_args()
    args.python = os.path.abspath(args.python)
    sys.path.insert(0, str(OURS))
    bench = Bench(args)
    settings = GPU if args.gpu else args.settings
    cells = [replace(parse(s), text=text) for s in settings for text in bench.texts]
    for cell in cells:
        bench.prepare(cell)
    runs = [(who, replace(c, seed=seed)) for c in cells for seed in args.seeds for who in args.who]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for future in [pool.submit(bench.run, *run) for run in runs]:
            future.result()
    print()
    for cell in cells:
        print(told(cell))
        for who in args.who:
            there = [bench.done[who, replace(cell, seed=seed)] for seed in args.seeds]
            print(f"  {who:14} {figures(there, args.peak_tflops * 1e12)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        globals()[f"inside_{sys.argv[2]}"](*sys.argv[3:])
    else:
        main()

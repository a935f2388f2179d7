"""How fast rustbpe trains and encodes, next to what people use now, in one run.

    python tests/bench/bench_rustbpe.py --data FOLDER

FOLDER holds Parquet files with a `text` column; the first 40 MB of the file mixed_00000.parquet
are used if it is there, or else of all files in order. The peers that are installed take part:
tiktoken, riptoken and tokenizers in this environment; PyPI's rustbpe 0.1.0, which has our module's
name, in an environment of its own (--published names its Python; by default one is made).

All that is compared runs in turn, A B C A B C …, so that a machine whose speed drifts treats all
alike; the figures are medians. Each training runs in a process of its own, which also tells its
peak memory, documents included. Before anything is timed the results are checked to be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

NANOCHAT = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
VOCAB_SIZE = 32768
MB = 1_000_000


# What a training process does


def train_rustbpe(docs: list[str], threads: int) -> Any:
    import rustbpe

    trained = rustbpe.Tokenizer()
    trained.train_from_iterator(iter(docs), VOCAB_SIZE, pattern=NANOCHAT, threads=threads)
    return trained.get_mergeable_ranks()


def train_published(docs: list[str], threads: int) -> Any:
    import rustbpe

    trained = rustbpe.Tokenizer()
    trained.train_from_iterator(iter(docs), VOCAB_SIZE, pattern=NANOCHAT)
    return trained.get_mergeable_ranks()


def train_tokenizers(docs: list[str], threads: int) -> Any:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(NANOCHAT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter(docs), trainer)
    return tokenizer.get_vocab_size()


TRAINERS = {
    "rustbpe": train_rustbpe,
    "PyPI rustbpe 0.1.0": train_published,
    "tokenizers": train_tokenizers,
}


def peak_mb() -> float:
    """The peak memory of this process, in MB of 2**20 bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss, which on Linux starts from what the parent process had.
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def training_process(name: str, docs_file: str, threads: int) -> None:
    docs = pickle.loads(Path(docs_file).read_bytes())
    start = time.perf_counter()
    result = TRAINERS[name](docs, threads)
    seconds = time.perf_counter() - start
    ranks = pickle.dumps(result).hex() if isinstance(result, list) else None
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb(), "ranks": ranks}))


def run_training(name: str, python: str, docs_file: Path, threads: int) -> dict[str, Any]:
    environment = {
        **os.environ,
        "RAYON_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "true",
    }
    command = [python, __file__, "--train", name, str(docs_file), str(threads)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


# Measuring


def in_turn(runs: int, works: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """The median seconds of each work, done `runs` times in turn after one time to warm up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for run in range(runs + 1):
        for name, work in works.items():
            start = time.perf_counter()
            result = work()
            seconds = time.perf_counter() - start
            del result  # Not part of the time: every list of lists takes long to free.
            if run:
                times[name].append(seconds)
    return {name: statistics.median(all_) for name, all_ in times.items()}


def print_table(title: str, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    print(f"\n{title}\n")
    columns = list(header)
    print("| " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * (len(columns) - 1))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    sys.stdout.flush()


def print_times(title: str, times: dict[str, float], megabytes: float) -> None:
    ours = next(iter(times.values()))
    print_table(
        title,
        ["", "seconds", "MB/s", "times ours"],
        [
            (name, f"{seconds:.3f}", f"{megabytes / seconds:.0f}", f"{seconds / ours:.1f}")
            for name, seconds in times.items()
        ],
    )


def read_docs(folder: Path) -> list[str]:
    from pyarrow import parquet

    files = sorted(folder.rglob("mixed_00000.parquet")) or sorted(folder.rglob("*.parquet"))
    files = [path for path in files if "text" in parquet.read_schema(path).names]
    if not files:
        sys.exit(f"no Parquet file with a text column below {folder}")
    docs = [text for path in files for text in parquet.read_table(path)["text"].to_pylist()]
    return first(docs, 41 * MB)


def first(docs: list[str], size: int) -> list[str]:
    """As many documents as have `size` characters, the last one cut."""
    some = []
    for doc in docs:
        some.append(doc[:size])
        size -= len(doc)
        if size <= 0:
            break
    return some


def published_python(given: str | None, folder: Path) -> str | None:
    if given:
        return given
    python = folder / "published" / "bin" / "python"
    steps = [
        [sys.executable, "-m", "venv", str(folder / "published")],
        [str(python), "-m", "pip", "install", "-q", "--retries", "0", "rustbpe==0.1.0"],
    ]
    for step in steps:
        if subprocess.run(step, capture_output=True, check=False).returncode:
            print("PyPI's rustbpe 0.1.0 cannot be installed here: left out")
            return None
    return str(python)


# The tables


def bench_training(docs: list[str], runs: int, published: str | None, folder: Path) -> Any:
    docs_file = folder / "docs.pickle"
    docs_file.write_bytes(pickle.dumps(docs))
    pythons = dict.fromkeys(TRAINERS, sys.executable)
    if published:
        pythons["PyPI rustbpe 0.1.0"] = published
    else:
        del pythons["PyPI rustbpe 0.1.0"]
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
    for _ in range(runs):
        for name, python in pythons.items():
            answers[name].append(run_training(name, python, docs_file, 2))
    ranks = {a["ranks"] for all_ in answers.values() for a in all_ if a["ranks"]}
    if len(ranks) != 1:
        sys.exit("the ranks differ: between runs, or between rustbpe and the published package")
    median = {n: statistics.median(a["seconds"] for a in all_) for n, all_ in answers.items()}
    print_table(
        f"Training, {VOCAB_SIZE:,} tokens, {sum(map(len, docs)) / MB:.0f} MB, 2 threads",
        ["", "seconds", "times ours", "peak MB"],
        [
            (
                name,
                f"{median[name]:.2f}",
                f"{median[name] / median['rustbpe']:.1f}",
                f"{statistics.median(a['peak_mb'] for a in answers[name]):.0f}",
            )
            for name in pythons
        ],
    )
    return pickle.loads(bytes.fromhex(ranks.pop()))


def bench_encoding(ours: Any, ranks: dict[bytes, int], docs: list[str], runs: int) -> None:
    import numpy as np
    import tiktoken

    peer = tiktoken.Encoding("b", pat_str=NANOCHAT, mergeable_ranks=ranks, special_tokens={})
    text = "".join(docs)[: 10 * MB]
    works: dict[str, Callable[[], Any]] = {
        "rustbpe encode_to_numpy": lambda: ours.encode_to_numpy(text),
        "rustbpe encode": lambda: ours.encode(text),
        "rustbpe count": lambda: ours.count(text),
        "tiktoken encode_to_numpy": lambda: peer.encode_to_numpy(text),
        "tiktoken encode_ordinary": lambda: peer.encode_ordinary(text),
    }
    try:
        import riptoken
    except ImportError:
        print("riptoken is not installed: left out")
    else:
        rip = riptoken.CoreBPE(ranks, {}, NANOCHAT)
        works["riptoken encode_ordinary"] = lambda: rip.encode_ordinary(text)
    if not np.array_equal(ours.encode_to_numpy(text), peer.encode_to_numpy(text)):
        sys.exit("the ids differ from tiktoken's")
    print_times("Encoding 10 MB as one string, 1 thread", in_turn(runs, works), 10)

    size = 4000
    joined = "".join(docs)
    batch = [joined[i * size :][:size] for i in range(min(5000, len(joined) // size))]
    if ours.batch_encode(batch) != peer.encode_ordinary_batch(batch, num_threads=2):
        sys.exit("the ids differ from tiktoken's")
    times = in_turn(
        runs,
        {
            "rustbpe batch_encode_to_numpy": lambda: ours.batch_encode_to_numpy(batch, threads=2),
            "rustbpe batch_encode, lists": lambda: ours.batch_encode(batch, threads=2),
            "tiktoken encode_ordinary_batch, lists": lambda: peer.encode_ordinary_batch(
                batch, num_threads=2
            ),
        },
    )
    title = f"Encoding {len(batch):,} documents of {size:,} characters, 2 threads"
    print_times(title, times, len(batch) * size / MB)


def bench_scaling(ours: Any, docs: list[str], runs: int, folder: Path) -> None:
    rows = []
    for size in [5, 10, 20, 40]:
        some = first(docs, size * MB)
        docs_file = folder / "some.pickle"
        docs_file.write_bytes(pickle.dumps(some))
        text = "".join(some)
        trained = {
            threads: statistics.median(
                run_training("rustbpe", sys.executable, docs_file, threads)["seconds"]
                for _ in range(runs)
            )
            for threads in [1, 2]
        }
        encoded = in_turn(
            runs,
            {
                "one": lambda text=text: ours.encode_to_numpy(text),
                "1": lambda some=some: ours.batch_encode_to_numpy(some, threads=1),
                "2": lambda some=some: ours.batch_encode_to_numpy(some, threads=2),
            },
        )
        rows.append(
            (
                f"{size} MB",
                f"{trained[1]:.2f}",
                f"{trained[2]:.2f}",
                *(f"{encoded[name] * 1000:.0f}" for name in ["one", "1", "2"]),
            )
        )
    print_table(
        "How it grows",
        [
            "text",
            "training, 1 thread, s",
            "2 threads, s",
            "one string, ms",
            "documents, 1 thread, ms",
            "2 threads, ms",
        ],
        rows,
    )


def bench_hostile(ours: Any, runs: int) -> None:
    hostile = {
        "one letter": "a" * MB,
        "spaces": " " * MB,
        "two letters": "ab" * (MB // 2),
        "random bytes as Latin-1": "".join(chr(i * i % 65537 % 256) for i in range(MB)),
        "emoji joined by ZWJ": "👩\u200d" * (MB // 7),
    }
    works = {name: lambda text=text: ours.encode_to_numpy(text) for name, text in hostile.items()}
    times = in_turn(runs, works)
    rows = [(name, f"{seconds * 1000:.0f}") for name, seconds in times.items()]
    print_table("1 MB of hostile text", ["", "ms"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of Parquet files with a text column")
    parser.add_argument("--runs", type=int, default=5, help="runs of each (default 5)")
    parser.add_argument("--published", help="a Python that imports PyPI's rustbpe 0.1.0")
    parser.add_argument("--train", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        name, docs_file, threads = arguments.train
        training_process(name, docs_file, int(threads))
        return
    if not arguments.data:
        parser.error("--data FOLDER is needed")

    import rustbpe

    docs = read_docs(arguments.data)
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        published = published_python(arguments.published, folder)
        pairs = bench_training(docs, arguments.runs, published, folder)
        ranks = {bytes(token): id_ for token, id_ in pairs}
        ours = rustbpe.Tokenizer.from_tiktoken(ranks, NANOCHAT)
        bench_encoding(ours, ranks, docs, arguments.runs)
        bench_hostile(ours, arguments.runs)
        bench_scaling(ours, docs, arguments.runs, folder)


if __name__ == "__main__":
    main()

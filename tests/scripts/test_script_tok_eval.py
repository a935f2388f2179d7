"""The comparison of tokenizers: a table of numbers that can be checked by hand."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import warm

pytest.importorskip("pyarrow")

from crate import rustbpe

from nanochat.sample_texts import SAMPLES
from nanochat.shards import write_shard
from nanochat.tokenizer import Tokenizer

REPO = Path(__file__).resolve().parents[2]
TRAIN, VAL = ["the cat sat on the mat"] * 9, ["the other cat", "ünïcode"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_shard(tmp_path / "data" / "shard_00000.parquet", TRAIN)
    write_shard(tmp_path / "data" / "val.parquet", VAL)
    return tmp_path


def tok_eval(base: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [warm.python(), "-m", "scripts.tok_eval", "--data", str(base / "data"), *flags],
        cwd=REPO,
        env={
            **os.environ,
            "NANOCHAT_BASE_DIR": str(base),
            "TIKTOKEN_CACHE_DIR": str(base / "cache"),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_table(base: Path) -> None:
    """Bytes per token of ours and of another, and their ratio, for every text."""
    ours = Tokenizer.train(TRAIN, 275)
    ours.save(base / "tokenizer" / "tokenizer.bpe")
    other = rustbpe.Tokenizer()
    other.train_from_iterator(TRAIN, 256)  # bytes alone
    folder = base / "bytes"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(other.to_hf_json(), encoding="utf-8")

    done = tok_eval(base, "--vocab-dir", str(folder))
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    texts = {**{name: [text] for name, text in SAMPLES.items()}, "train": TRAIN, "val": VAL}
    for name, documents in texts.items():
        size = sum(len(text.encode()) for text in documents)
        own = size / sum(len(ours.encode(text)) for text in documents)
        assert rows[name] == [f"{size:,}", f"{own:.2f}", "1.00", f"{own:.3f}"]
    assert rows["vocabulary"] == ["275", "256"]
    assert "gpt2 is not on this disk" in done.stdout
    assert "cl100k_base is not on this disk" in done.stdout


def test_without_a_tokenizer(base: Path) -> None:
    """One line that says how to make one."""
    done = tok_eval(base)
    assert done.returncode == 1
    assert "python -m scripts.tok_train" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_that_is_not_there(base: Path) -> None:
    """Said before anything is compared."""
    Tokenizer.train(TRAIN, 275).save(base / "tokenizer" / "tokenizer.bpe")
    done = tok_eval(base, "--vocab-dir", str(base / "nowhere"))
    assert done.returncode == 1
    assert "nowhere is no folder" in done.stderr

"""Training the tokenizer as a person does: a process, its words, its files."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import warm

pytest.importorskip("pyarrow")

import crate  # noqa: F401

from nanochat.shards import write_shard
from nanochat.tokenizer import Tokenizer

REPO = Path(__file__).resolve().parents[2]
DOCUMENTS = [f"Document {i}: the quick brown fox jumps over {i * i} lazy dogs." for i in range(60)]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write_shard(folder / "shard_00000.parquet", DOCUMENTS[:30], group=7)
    write_shard(folder / "shard_00001.parquet", DOCUMENTS[30:50], group=7)
    write_shard(folder / "val.parquet", DOCUMENTS[50:])
    return tmp_path


def tok_train(base: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [warm.python(), "-m", "scripts.tok_train", "--data", str(base / "data"), *flags],
        cwd=REPO,
        env={**os.environ, "NANOCHAT_BASE_DIR": str(base)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def tokenizer_of(base: Path) -> Tokenizer:
    return Tokenizer.load(base / "tokenizer" / "tokenizer.bpe")


def test_trains_on_all_training_shards(base: Path) -> None:
    """The same tokenizer as from the documents themselves; the validation shard is left alone."""
    done = tok_train(base, "--vocab_size=300")
    assert done.returncode == 0, done.stderr
    assert tokenizer_of(base).fingerprint == Tokenizer.train(DOCUMENTS[:50], 300).fingerprint
    chars = sum(map(len, DOCUMENTS[:50]))
    assert f"trained on {chars:,} characters of 50 documents" in done.stdout
    assert "300 tokens of 1 to" in done.stdout
    assert re.search(r"\d\.\d\d bytes per token in 10 validation documents", done.stdout)
    assert tokenizer_of(base).fingerprint in done.stdout


def test_reads_no_more_than_it_should(base: Path) -> None:
    """`--doc-cap` and `--max-chars`, which may be written 1e2."""
    done = tok_train(base, "--vocab-size", "270", "--doc-cap", "30", "--max-chars", "1e2")
    assert done.returncode == 0, done.stderr
    texts = [DOCUMENTS[0][:30], DOCUMENTS[1][:30], DOCUMENTS[2][:30], DOCUMENTS[3][:10]]
    assert tokenizer_of(base).fingerprint == Tokenizer.train(texts, 270).fingerprint
    assert "100 characters of 4 documents" in done.stdout


def test_too_little_text(base: Path) -> None:
    """Said, with the number of merges; what there is is saved."""
    done = tok_train(base, "--vocab-size", "5000")
    assert done.returncode == 0, done.stderr
    size = tokenizer_of(base).vocab_size
    assert 300 < size < 5000
    assert f"gives only {size - 265:,} merges" in done.stdout


def test_nothing_is_lost(base: Path) -> None:
    """The former tokenizer is kept, and models that need it are spoken of."""
    tok_train(base, "--vocab-size", "280")
    former = tokenizer_of(base)
    again = tok_train(base, "--vocab-size", "280")
    assert "kept" not in again.stdout

    (base / "base_checkpoints" / "d4").mkdir(parents=True)
    (base / "base_checkpoints" / "d4" / "meta_000010.json").write_text("{}")
    done = tok_train(base, "--vocab-size", "290")
    kept = base / "tokenizer" / f"tokenizer-{former.fingerprint}.bpe"
    assert Tokenizer.load(kept).fingerprint == former.fingerprint
    assert f"kept as {kept}" in done.stdout
    assert "were trained with another tokenizer" in done.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--vocab-size", "264"), "264 is below 265"),
        (("--vocab-size", "many"), "'many' is no whole number"),
        (("--max-chars", "1.5"), "'1.5' is no whole number of at least 1"),
        (("--max-chars", "inf"), "'inf' is no whole number of at least 1"),
        (("--max-chars", "nan"), "'nan' is no whole number of at least 1"),
        (("--doc-cap", "0"), "0 is below 1"),
        (("--no-such-flag",), "unrecognized arguments"),
    ],
)
def test_wrong_values(base: Path, flags: tuple[str, ...], words: str) -> None:
    """One line, status 2, nothing written."""
    done = tok_train(base, *flags)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (base / "tokenizer").exists()


def test_data_that_does_not_fit(base: Path) -> None:
    """A cut shard, no data, empty documents: one line, status 1, and the tokenizer that was there stays."""
    tok_train(base, "--vocab-size", "280")
    before = (base / "tokenizer" / "tokenizer.bpe").read_bytes()

    missing = tok_train(base, "--data", "nowhere")
    shard = base / "data" / "shard_00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    cut = tok_train(base)
    for path in (shard, base / "data" / "shard_00000.parquet"):
        path.unlink()
        write_shard(path, [""])
    empty = tok_train(base)

    for done, words in (
        (missing, "no dataset or folder 'nowhere'"),
        (cut, "shard_00001.parquet"),
        (empty, "no text"),
    ):
        assert done.returncode == 1
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in (base / "tokenizer").iterdir()] == ["tokenizer.bpe"]
    assert (base / "tokenizer" / "tokenizer.bpe").read_bytes() == before

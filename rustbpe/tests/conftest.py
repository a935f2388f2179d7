"""Text for the tests, which need no network and no data: the standard library's own sources."""

import os
import random
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import rustbpe

# Characters that splitters, encoders and Python's own strings get wrong most easily.
NASTY = [
    *"abzABZ019 '’.,;!?-_=()[]{}<>|/\\\"`~@#$%^&*+",
    *"\t\n\r\v\f\x00\x1c\x1f\x7f\x85\xa0\xad",
    *"ſKßéÉİıǅᾳﬁ",  # letters with odd cases
    *"²½Ⅷ٣০๓〇㊿𝟘",  # numbers of all kinds
    *"\u1680\u2000\u2009\u200b\u200c\u200d\u2028\u2029\u202f\u205f\u2060\u3000\ufeff",
    *"\u0300\u0301\u20e3\ufe0e\ufe0f",  # marks
    *"中あア한ไทअरعبעבΑαЖж",
    *"👩🏽💻🇩🇪❤\U0001f9d1\U000e0001\U0010ffff\ue000\ufffd\uffff",
    "'s", "'S", "'ſ", "'LL", "'ve", "'Re", "  ", "\r\n", "\n\n", " \n", "    ", "aaaa", "1234",
]  # fmt: skip


def nasty_texts(number: int, seed: int = 0) -> list[str]:
    """Random texts weighted to nasty characters, the same ones every time."""
    rng = random.Random(seed)
    texts = []
    for _ in range(number):
        parts = rng.choices(NASTY, k=rng.randrange(30))
        if rng.random() < 0.3:
            place = rng.randrange(len(parts) + 1)
            parts.insert(
                place, chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)]))
            )
        texts.append("".join(parts))
    return texts


def library_texts(most: int = 4_000_000) -> list[str]:
    """Sources of the standard library: `most` characters at most."""
    texts, size = [], 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if size + len(text) > most:
            break
        texts.append(text)
        size += len(text)
    return texts


def shared_texts() -> list[str]:
    """All texts of the Parquet files below the folder that RUSTBPE_TEST_DATA names."""
    folder = os.environ.get("RUSTBPE_TEST_DATA")
    if not folder:
        pytest.skip("set RUSTBPE_TEST_DATA to a folder of Parquet files with a text column")
    parquet = pytest.importorskip("pyarrow.parquet")
    files = [
        path
        for path in sorted(Path(folder).rglob("*.parquet"))
        if "text" in parquet.read_schema(path).names
    ]
    return [text for path in files for text in parquet.read_table(path)["text"].to_pylist()]


SPECIALS = ["<|bos|>", "<|user_start|>", "<|user_end|>"]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return [*library_texts(1_500_000), *nasty_texts(2000)]


@pytest.fixture(scope="session")
def tokenizer(texts: list[str]) -> rustbpe.Tokenizer:
    """nanochat's tokenizer, but small."""
    trained = rustbpe.Tokenizer()
    pattern = rustbpe.NANOCHAT_PATTERN
    trained.train_from_iterator(texts, 4096, pattern=pattern, special_tokens=SPECIALS)
    return trained


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python interpreter that imports PyPI's rustbpe 0.1.0, which has this module's name.

    RUSTBPE_PEER_PYTHON names one; otherwise an environment is made, if pip finds the package.
    """
    given = os.environ.get("RUSTBPE_PEER_PYTHON")
    if given:
        return Path(given)
    folder = tmp_path_factory.mktemp("published")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    steps = [
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "-q", "--retries", "0", "rustbpe==0.1.0"],
    ]
    for step in steps:
        done = subprocess.run(step, check=False, capture_output=True, text=True, timeout=300)
        if done.returncode:
            pytest.skip(f"PyPI's rustbpe 0.1.0 cannot be had here: {done.stderr.strip()[-300:]}")
    return python

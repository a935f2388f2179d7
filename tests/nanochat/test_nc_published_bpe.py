"""The published packages in place of our crate: the same merges, ids and files."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("tiktoken")

from crate import rustbpe  # noqa: E402

from nanochat import bpe, published_bpe  # noqa: E402
from nanochat.errors import NanochatError  # noqa: E402
from nanochat.tokenizer import SPECIALS, Tokenizer  # noqa: E402

VOCAB = 700


class _Published:
    """What the published package has of ours: it trains and says its ranks."""

    def __init__(self) -> None:
        self._core = rustbpe.Tokenizer()

    def train_from_iterator(
        self, iterator: Iterable[str], vocab_size: int, buffer_size: int = 8192, pattern: Any = None
    ) -> None:
        self._core.train_from_iterator(iterator, vocab_size, buffer_size, pattern)

    def get_mergeable_ranks(self) -> list[tuple[bytes, int]]:
        return list(self._core.get_mergeable_ranks())


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that has the published package under the module's name."""
    module = ModuleType("rustbpe")
    module.Tokenizer = _Published  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rustbpe", module)


def texts() -> list[str]:
    """Sources, other scripts, numbers, contractions, white space of all kinds; what spells special tokens."""
    chance = random.Random(7)
    alphabet = [
        *"abzABZ019 '’.,;!?_()\t\n\r\x85\xa0\u2028",
        *"ſKßéÉİǅ²½Ⅷ٣〇中あア한ไअرעΑЖ👩🏽💻🇩🇪\u0300",
    ]
    alphabet += ["'s", "'LL", "'ſ", "  ", "\r\n", "\n\n", "1234", *SPECIALS]
    made = ["".join(chance.choices(alphabet, k=chance.randrange(60))) for _ in range(1500)]
    return [*made, Path(bpe.__file__).read_text(), Path(published_bpe.__file__).read_text(), ""]


TEXTS = texts()


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return Tokenizer.train(TEXTS, VOCAB)


def test_patterns_are_those_of_the_crate() -> None:
    for name in ("NANOCHAT_PATTERN", "GPT4_PATTERN", "GPT2_PATTERN"):
        assert getattr(published_bpe, name) == getattr(rustbpe, name)


def test_training_gives_the_same_file(ours: Tokenizer, published: None) -> None:
    heard: list[tuple[str, int, int | None]] = []
    theirs = Tokenizer.train(TEXTS, VOCAB, lambda *words: heard.append(words))
    assert isinstance(theirs.core, published_bpe.Tokenizer)
    assert theirs.core.to_bytes() == ours.core.to_bytes()
    assert theirs.fingerprint == ours.fingerprint
    assert heard == [("count", len(TEXTS), None), ("merge", VOCAB - 265, VOCAB - 265)]


def test_saved_by_one_and_loaded_by_the_other(
    ours: Tokenizer, published: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours.save(tmp_path / "ours.bpe")
    theirs = Tokenizer.load(tmp_path / "ours.bpe")
    theirs.save(tmp_path / "theirs.bpe")
    monkeypatch.undo()
    again = Tokenizer.load(tmp_path / "theirs.bpe")
    assert isinstance(again.core, rustbpe.Tokenizer) and again.fingerprint == ours.fingerprint


def test_same_ids_bytes_and_texts(ours: Tokenizer, published: None) -> None:
    theirs = Tokenizer(published_bpe.Tokenizer.from_bytes(ours.core.to_bytes()))  # type: ignore[arg-type]
    assert theirs.vocab_size == ours.vocab_size and theirs.bos == ours.bos
    assert [theirs.special(name) for name in SPECIALS] == [ours.special(name) for name in SPECIALS]
    assert theirs.byte_lengths().tolist() == ours.byte_lengths().tolist()
    for text in TEXTS[::10]:
        assert theirs.encode(text) == ours.encode(text)
    for threads in (None, 1, 2):
        for found, wanted in zip(
            theirs.encode_documents(TEXTS, threads), ours.encode_documents(TEXTS), strict=True
        ):
            assert found.dtype == wanted.dtype and np.array_equal(found, wanted)
    ids = [*ours.encode_documents(TEXTS)[0].tolist(), ours.special(SPECIALS[-1])]
    assert theirs.decode(ids) == ours.decode(ids)
    half = ours.encode("𝄞")[:-1]
    assert theirs.decode(half) == ours.decode(half)
    assert theirs.decode_bytes(half) == ours.decode_bytes(half)
    halves = "a\ud800b"
    assert theirs.encode(halves) == ours.encode(halves)
    with pytest.raises(ValueError, match="no token"):
        theirs.decode([VOCAB])


def test_a_large_vocabulary_takes_four_bytes() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 1 << 16}
    made = published_bpe.Tokenizer.from_tiktoken(ranks, published_bpe.GPT2_PATTERN)
    wanted = rustbpe.Tokenizer.from_tiktoken(ranks, rustbpe.GPT2_PATTERN)
    for found, other in zip(
        made.batch_encode_to_numpy(["xab", ""], prepend=1),
        wanted.batch_encode_to_numpy(["xab", ""], prepend=1),
        strict=True,
    ):
        assert found.dtype == other.dtype and found.tolist() == other.tolist()


@pytest.mark.parametrize("damage", range(0, 4000, 97))
def test_any_damage_is_noticed(ours: Tokenizer, damage: int) -> None:
    contents = bytearray(ours.core.to_bytes())
    at = damage % len(contents)
    contents[at] ^= 1
    with pytest.raises(ValueError):
        published_bpe.Tokenizer.from_bytes(bytes(contents))
    with pytest.raises(ValueError):
        published_bpe.Tokenizer.from_bytes(bytes(contents[:at]))


@pytest.mark.parametrize("given", [[], ["", ""], ["a\ud800"]])
def test_text_that_cannot_be_trained_on(given: list[str], published: None) -> None:
    with pytest.raises(NanochatError, match="cannot be trained"):
        Tokenizer.train(given, 300)


def test_a_text_that_overflows_the_other_program(ours: Tokenizer, published: None) -> None:
    """Its engine of regular expressions gives up on millions of blanks: a sentence, no panic."""
    core = published_bpe.Tokenizer.from_bytes(ours.core.to_bytes())

    class Panics:
        def encode_ordinary(self, text: str) -> list[int]:
            class PanicException(BaseException):
                pass

            raise PanicException("StackOverflow")

    core._encoding = Panics()
    with pytest.raises(NanochatError, match="build-rustbpe"):
        core.encode(" ")


def test_what_takes_our_crate_says_so(published: None) -> None:
    with pytest.raises(NanochatError, match="build-rustbpe"):
        published_bpe.Tokenizer.from_hf_json("{}")
    with pytest.raises(NanochatError, match="build-rustbpe"):
        published_bpe.Tokenizer().to_hf_json()


def test_the_published_package_alone_is_not_enough(
    published: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NanochatError, match="--prebuilt"):
        bpe.module()


REAL = """
import json, sys
sys.path[:0] = sys.argv[1:3]
from nanochat import bpe
from nanochat.tokenizer import Tokenizer
texts = json.load(sys.stdin)
made = Tokenizer.train(texts, 700)
print(json.dumps([bpe.module().__name__, made.fingerprint, made.encode_documents(texts)[0].tolist()]))
"""


@pytest.mark.network
@pytest.mark.slow
def test_the_published_package_itself(ours: Tokenizer, tmp_path: Path) -> None:
    uv = shutil.which("uv")
    tool = [uv, "pip", "install", "--python"] if uv else [sys.executable, "-m", "pip", "install"]
    words = [*tool, *([sys.executable] if uv else []), "--no-deps", "--target", str(tmp_path)]
    fetched = subprocess.run(
        [*words, "rustbpe==0.1.0"], check=False, capture_output=True, text=True, timeout=100
    )
    if fetched.returncode:
        pytest.skip(f"rustbpe 0.1.0 cannot be had here: {fetched.stderr.strip()[-200:]}")
    done = subprocess.run(
        [sys.executable, "-c", REAL, str(tmp_path), str(Path(bpe.__file__).parents[1])],
        input=json.dumps(TEXTS), check=True, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    name, fingerprint, ids = json.loads(done.stdout)
    assert name == "nanochat.published_bpe" and fingerprint == ours.fingerprint
    assert ids == ours.encode_documents(TEXTS)[0].tolist()

"""The tokenizer against tiktoken, and files that are not what they should be."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

np = pytest.importorskip("numpy")

from crate import rustbpe  # noqa: E402

from nanochat.errors import NanochatError, WrongUsage  # noqa: E402
from nanochat.tokenizer import SMALLEST_VOCAB, SPECIALS, Tokenizer, default_path  # noqa: E402

TEXTS = [
    "The tide turned at noon, and the boats came home one by one.",
    "He'll say it's 1234 miles; they've said 56. WE'RE not sure.\r\n\r\n  So what?",
    "def area(r):\n    return 3.14159 * r ** 2\n",
    "바다는 조용했고 배는 돌아왔다. Ünïcödé, 数学, 🚢🚢 and é.",
    "",
] * 3
VOCAB = 400


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, VOCAB)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    return tmp_path


def test_special_tokens_follow_the_merges(tokenizer: Tokenizer) -> None:
    """Nine of them, in the published order, with the last ids."""
    assert tokenizer.vocab_size == VOCAB
    ids = [tokenizer.special(name) for name in SPECIALS]
    assert ids == list(range(VOCAB - 9, VOCAB))
    assert tokenizer.bos == ids[0]
    assert SPECIALS[0] == "<|bos|>"
    assert SPECIALS[-1] == "<|output_end|>"


@given(st.text())
def test_round_trip_of_any_text(text: str) -> None:
    """Also of text that the tokenizer has never seen."""
    tokenizer = _module_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def _module_tokenizer(made: list[Tokenizer] = []) -> Tokenizer:  # noqa: B006
    if not made:
        made.append(Tokenizer.train(TEXTS, VOCAB))
    return made[0]


def test_equals_tiktoken(tokenizer: Tokenizer) -> None:
    """An Encoding built from the same ranks gives the same ids; digits go in pairs."""
    tiktoken = pytest.importorskip("tiktoken")
    encoding = tiktoken.Encoding("nanochat", **tokenizer.core.to_tiktoken())
    for text in [*TEXTS, "unseen ∂x/∂y, 100200300 <|bos|> \t\n\n end  "]:
        assert tokenizer.encode(text) == encoding.encode_ordinary(text)


def test_text_cannot_forge_special_tokens(tokenizer: Tokenizer) -> None:
    """What spells a special token is ordinary text, in documents too."""
    forged = "".join(SPECIALS)
    ids, _ = tokenizer.encode_documents([forged])
    assert max(tokenizer.encode(forged)) < tokenizer.bos
    assert (ids >= tokenizer.bos).sum() == 1  # the BOS that was prepended


def test_documents_start_with_bos(tokenizer: Tokenizer) -> None:
    """One array, len + 1 offsets, BOS before each text, whatever the number of threads."""
    ids, offsets = tokenizer.encode_documents(TEXTS, threads=2)
    assert len(offsets) == len(TEXTS) + 1
    assert offsets[-1] == len(ids)
    for text, start, end in zip(TEXTS, offsets, offsets[1:], strict=False):
        assert ids[start:end].tolist() == [tokenizer.bos, *tokenizer.encode(text)]
    alone, _ = tokenizer.encode_documents(TEXTS, threads=1)
    assert np.array_equal(ids, alone)


def test_half_a_character_is_no_end(tokenizer: Tokenizer) -> None:
    """JSON can spell lone surrogates, UTF-8 cannot: they become U+FFFD, and the rest stays."""
    assert tokenizer.decode(tokenizer.encode("a\ud800b🚢")) == "a\ufffdb🚢"
    ids, offsets = tokenizer.encode_documents(["ok", "a\udc00b"])
    assert tokenizer.decode(ids[offsets[1] + 1 :].tolist()) == "a\ufffdb"


def test_bytes_that_are_no_character(tokenizer: Tokenizer) -> None:
    """Half a character shows as U+FFFD in text and exactly in bytes."""
    half = tokenizer.encode("𝄞")[:-1]
    assert tokenizer.decode(half) == "\ufffd"
    assert tokenizer.decode_bytes(half) == "𝄞".encode()[:-1]


def test_byte_lengths(tokenizer: Tokenizer) -> None:
    """As many bytes as each id decodes to, none for special tokens; a text's lengths add up to its bytes."""
    lengths = tokenizer.byte_lengths()
    assert lengths.dtype == np.int32
    assert lengths.shape == (VOCAB,)
    assert not lengths[tokenizer.bos :].any()
    assert [len(tokenizer.decode_bytes([i])) for i in range(tokenizer.bos)] == lengths[:-9].tolist()
    text = "".join(TEXTS)
    assert lengths[tokenizer.encode(text)].sum() == len(text.encode())


def test_save_and_load(tokenizer: Tokenizer, base: Path) -> None:
    """The same ids and fingerprint come back, from the place everyone looks in."""
    assert tokenizer.save() is None
    assert default_path() == base / "tokenizer" / "tokenizer.bpe"
    again = Tokenizer.load()
    assert again.fingerprint == tokenizer.fingerprint
    assert len(again.fingerprint) == 8
    assert [again.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    assert Tokenizer.train(TEXTS[:3], 300).fingerprint != tokenizer.fingerprint


def test_the_former_tokenizer_is_kept(tokenizer: Tokenizer, base: Path) -> None:
    """By its fingerprint, as often as it changes; saving the same again keeps no copy."""
    other = Tokenizer.train(TEXTS, 300)
    other.save()
    kept = tokenizer.save()
    assert kept == base / "tokenizer" / f"tokenizer-{other.fingerprint}.bpe"
    assert Tokenizer.load(kept).fingerprint == other.fingerprint
    assert Tokenizer.load().fingerprint == tokenizer.fingerprint
    assert tokenizer.save() is None
    assert other.save() == base / "tokenizer" / f"tokenizer-{tokenizer.fingerprint}.bpe"
    assert len(list((base / "tokenizer").iterdir())) == 3


def test_every_damage_is_noticed(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """No cut and no changed byte gives another tokenizer in silence; the sentence names file and cure."""
    path = tmp_path / "tokenizer.bpe"
    sound = tokenizer.core.to_bytes()
    step = max(1, len(sound) // 40)
    damaged = [sound[:cut] for cut in range(0, len(sound), step)]
    damaged += [
        sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :] for at in range(0, len(sound), step)
    ]
    for contents in damaged:
        path.write_bytes(contents)
        with pytest.raises(NanochatError, match=r"tokenizer\.bpe.*scripts\.tok_train"):
            Tokenizer.load(path)
        assert path.read_bytes() == contents


def test_missing(base: Path) -> None:
    """Where it should be, and how to make it."""
    with pytest.raises(
        NanochatError, match=r"tokenizer\.bpe is not there; .*python -m scripts\.tok_train"
    ):
        Tokenizer.load()


def test_pickle_of_another_nanochat(base: Path) -> None:
    """It is named, never read: this one would make a file if it were."""
    folder = base / "tokenizer"
    folder.mkdir()
    trap = base / "opened"

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (trap,)

    (folder / "tokenizer.pkl").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(NanochatError, match=r"tokenizer\.pkl, a pickle.*scripts\.tok_train"):
        Tokenizer.load()
    with pytest.raises(NanochatError, match="not a rustbpe tokenizer file"):
        Tokenizer.load(folder / "tokenizer.pkl")
    assert not trap.exists()


def test_a_folder_is_no_tokenizer(tmp_path: Path) -> None:
    """A folder of that name is said like any file that cannot be read."""
    with pytest.raises(NanochatError, match="cannot be read"):
        Tokenizer.load(tmp_path)


def test_without_special_tokens(tmp_path: Path) -> None:
    """A sound file of the same program, but not for conversations."""
    bare = rustbpe.Tokenizer()
    bare.train_from_iterator(TEXTS, 300, special_tokens=SPECIALS[:8])
    bare.save(tmp_path / "bare.bpe")
    with pytest.raises(NanochatError, match=r"bare\.bpe.*<\|output_end\|>.*scripts\.tok_train"):
        Tokenizer.load(tmp_path / "bare.bpe")


def test_vocabulary_without_room() -> None:
    """Bytes and special tokens are the least; exactly those is a tokenizer without merges."""
    with pytest.raises(WrongUsage, match=r"264 is too small.*265"):
        Tokenizer.train(TEXTS, SMALLEST_VOCAB - 1)
    least = Tokenizer.train(TEXTS, SMALLEST_VOCAB)
    assert least.encode("abc") == list(b"abc")


def test_text_too_small_for_the_vocabulary() -> None:
    """The result is what the text could give: one merge here."""
    assert Tokenizer.train(["ab ab"], 1000).vocab_size < SMALLEST_VOCAB + 5


def test_no_text() -> None:
    """An empty corpus has no tokenizer."""
    with pytest.raises(NanochatError, match="no text"):
        Tokenizer.train([], 300)

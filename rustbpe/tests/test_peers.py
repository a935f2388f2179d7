"""The same ids, merges and files as tiktoken, Hugging Face tokenizers and PyPI's rustbpe 0.1.0."""

import json
import pickle
import subprocess
from pathlib import Path

import pytest
from conftest import SPECIALS, library_texts, nasty_texts, shared_texts

import rustbpe
from rustbpe import Tokenizer

tiktoken = pytest.importorskip("tiktoken")

# Spelled as tiktoken's own plugins spell them; GPT-4o's has no splitter by hand.
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
PATTERNS = {
    "nanochat": rustbpe.NANOCHAT_PATTERN,
    "gpt4": rustbpe.GPT4_PATTERN,
    "gpt2": rustbpe.GPT2_PATTERN,
    "cl100k_base": CL100K,
    "words": r"[\p{Lu}\p{Lt}]?[\p{Ll}\p{M}]+|\p{N}|\s+(?!\S)|[^\p{L}]",
}


def encoding(trained: Tokenizer) -> "tiktoken.Encoding":
    return tiktoken.Encoding("test", **trained.to_tiktoken())


def assert_equal_ids(trained: Tokenizer, texts: list[str]) -> None:
    wanted = encoding(trained).encode_ordinary_batch(texts, num_threads=2)
    found = trained.batch_encode(texts)
    different = [text for text, a, b in zip(texts, found, wanted, strict=True) if a != b]
    assert not different, f"{len(different)} of {len(texts)} texts, first {different[0][:200]!r}"


@pytest.mark.parametrize("name", PATTERNS)
def test_ids_of_tiktoken(name: str, texts: list[str]) -> None:
    trained = Tokenizer()
    trained.train_from_iterator(texts, 3000, pattern=PATTERNS[name])
    assert_equal_ids(trained, texts)
    assert_equal_ids(trained, [*nasty_texts(20_000, seed=2), *library_texts()])


def test_ids_of_tiktoken_on_every_character(tokenizer: Tokenizer) -> None:
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    joined = "".join(characters)
    lines = [joined[i : i + 1000] for i in range(0, len(joined), 1000)]
    lines += [" ".join(line) for line in lines]
    lines += ["'" + "'".join(line) for line in lines[: len(lines) // 2]]
    assert_equal_ids(tokenizer, lines)


def test_ids_of_tiktoken_on_100_000_nasty_texts(tokenizer: Tokenizer) -> None:
    assert_equal_ids(tokenizer, nasty_texts(100_000, seed=3))


def test_ids_of_tiktoken_with_special_tokens(tokenizer: Tokenizer) -> None:
    peer = encoding(tokenizer)
    for text in nasty_texts(300, seed=4):
        text = f"{SPECIALS[0]}{text}{SPECIALS[1]} {text}{SPECIALS[2]}"
        parsed = tokenizer.encode(text, special="parse")
        assert parsed == peer.encode(text, allowed_special="all")
        assert tokenizer.encode(text) == peer.encode_ordinary(text)
    assert peer.n_vocab == tokenizer.vocab_size


def test_ranks_that_training_does_not_make() -> None:
    """tiktoken takes any ranks: tokens that merges never reach, bytes in any order, gaps."""
    ranks = {bytes([byte]): 3 * (255 - byte) for byte in range(256)}
    for number, token in enumerate([b"abcd", b"aa", b"the", b"he", b"  ", b"aaaaa", b" th", b"bc"]):
        ranks[token] = 1000 + 7 * number
    trained = Tokenizer.from_tiktoken(ranks, rustbpe.GPT2_PATTERN, {"<|end|>": 1})
    assert dict(trained.get_mergeable_ranks()) == ranks
    texts = ["abcd xabcd the theatre the the  aaaaaaaaa   aaaaaab bcd", *nasty_texts(2000)]
    assert_equal_ids(trained, texts)


@pytest.mark.parametrize("pattern", [rustbpe.NANOCHAT_PATTERN, rustbpe.GPT2_PATTERN])
def test_hugging_face(pattern: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    texts = [*library_texts(1_000_000), *nasty_texts(20_000)]
    trained = Tokenizer()
    trained.train_from_iterator(texts, 3000, pattern=pattern, special_tokens=SPECIALS)
    peer = tokenizers.Tokenizer.from_str(trained.to_hf_json())
    assert peer.get_vocab_size() == trained.vocab_size
    probes = [*texts, "a<|bos|> b <|user_end|>"]
    found = [ids.ids for ids in peer.encode_batch(probes)]
    assert found == trained.batch_encode(probes, special="parse")
    assert peer.decode(found[0]) == probes[0]
    assert Tokenizer.from_hf_json(peer.to_str()).to_bytes() == trained.to_bytes()


def test_a_file_that_hugging_face_trained() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    texts = library_texts(500_000)
    peer = tokenizers.Tokenizer(tokenizers.models.BPE())
    pre_tokenizers = tokenizers.pre_tokenizers
    peer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    peer.train_from_iterator(texts, trainer)
    ours = Tokenizer.from_hf_json(peer.to_str())
    assert ours.get_pattern() == rustbpe.GPT2_PATTERN
    assert ours.special_tokens == {"<|endoftext|>": 0}
    assert ours.batch_encode(texts) == [ids.ids for ids in peer.encode_batch(texts)]
    assert json.loads(ours.to_hf_json())["model"]["merges"] == [
        list(merge) for merge in json.loads(peer.to_str())["model"]["merges"]
    ]


PEER_SCRIPT = """
import pickle, sys, rustbpe
texts, vocab_size, pattern = pickle.load(sys.stdin.buffer)
trained = rustbpe.Tokenizer()
trained.train_from_iterator(iter(texts), vocab_size, pattern=pattern)
probes = [text[:5000] for text in texts]
answer = trained.get_mergeable_ranks(), trained.batch_encode(probes), trained.get_pattern()
sys.stdout.buffer.write(pickle.dumps((answer, trained.vocab_size)))
"""


def published_answer(
    python: Path, texts: list[str], vocab_size: int, pattern: str | None
) -> object:
    request = pickle.dumps((texts, vocab_size, pattern))
    done = subprocess.run(
        [python, "-c", PEER_SCRIPT], input=request, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)


def our_answer(texts: list[str], vocab_size: int, pattern: str | None) -> object:
    trained = Tokenizer()
    trained.train_from_iterator(iter(texts), vocab_size, pattern=pattern)
    probes = [text[:5000] for text in texts]
    answer = trained.get_mergeable_ranks(), trained.batch_encode(probes), trained.get_pattern()
    return answer, trained.vocab_size


@pytest.mark.parametrize("pattern", [None, rustbpe.NANOCHAT_PATTERN, rustbpe.GPT2_PATTERN])
def test_merges_of_the_published_package(
    published: Path, texts: list[str], pattern: str | None
) -> None:
    # To the end, where every merge is a tie.
    few = nasty_texts(300, seed=5)
    for some, vocab_size in [(texts, 5000), (few, 100_000)]:
        wanted = published_answer(published, some, vocab_size, pattern)
        assert our_answer(some, vocab_size, pattern) == wanted


def test_shared_data(published: Path) -> None:
    """Merges of the published package and ids of tiktoken, on all of the data."""
    texts = shared_texts()
    pattern = rustbpe.NANOCHAT_PATTERN
    wanted = published_answer(published, texts, 32768, pattern)
    assert our_answer(texts, 32768, pattern) == wanted
    trained = Tokenizer()
    trained.train_from_iterator(texts, 32768, pattern=pattern)
    assert_equal_ids(trained, texts)

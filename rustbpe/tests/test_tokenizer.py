"""What the tokenizer does, in the order of its methods."""

import copy
import pickle
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from conftest import SPECIALS, library_texts, nasty_texts
from hypothesis import given, settings
from hypothesis import strategies as st

import rustbpe
from rustbpe import Tokenizer


def train(texts: object, vocab_size: int = 300, **options: object) -> Tokenizer:
    trained = Tokenizer()
    trained.train_from_iterator(texts, vocab_size, **options)  # type: ignore[arg-type]
    return trained


def slow_training(pieces: Counter[bytes], merges: int) -> list[tuple[bytes, int]]:
    """Training as the README words it, one recount after the other."""
    tokens = [bytes([byte]) for byte in range(256)]
    words = [(list(piece), count) for piece, count in pieces.items()]
    for new in range(256, 256 + merges):
        pairs: Counter[tuple[int, int]] = Counter()
        for ids, count in words:
            for pair in pairwise(ids):
                pairs[pair] += count
        if not pairs:
            break
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        tokens.append(tokens[left] + tokens[right])
        for ids, _ in words:
            at = 0
            while at + 1 < len(ids):
                if ids[at] == left and ids[at + 1] == right:
                    ids[at : at + 2] = [new]
                at += 1
    return [(token, id_) for id_, token in enumerate(tokens)]


# Training


def test_training_follows_the_rule() -> None:
    words = ["low", "lower", "lowest", "new", "newest", "aaaa", "aaaaa", "abababa", "baab"]
    texts = [" ".join(words[i:] + words[: i * 2]) for i in range(9)]
    pieces = Counter(word.encode() for text in texts for word in text.split())
    trained = train(texts, 256 + 40, pattern=r"\w+")
    assert trained.get_mergeable_ranks() == slow_training(pieces, 40)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab c", max_size=40), min_size=1), st.integers(0, 12))
def test_training_follows_the_rule_on_any_text(texts: list[str], merges: int) -> None:
    pieces = Counter(piece.encode() for text in texts for piece in text.split(" ") if piece)
    if pieces:
        trained = train(texts, 256 + merges, pattern="[^ ]+")
        assert trained.get_mergeable_ranks() == slow_training(pieces, merges)


def test_threads_chunks_and_order_change_nothing(texts: list[str]) -> None:
    wanted = train(texts, 1000).get_mergeable_ranks()
    assert train(texts, 1000, threads=1).get_mergeable_ranks() == wanted
    assert train(texts, 1000, threads=7).get_mergeable_ranks() == wanted
    assert train(iter(texts[::-1]), 1000, buffer_size=3).get_mergeable_ranks() == wanted
    halves = [part for text in texts for part in text.splitlines(keepends=True)]
    by_lines = train(halves, 1000, buffer_size=1).get_mergeable_ranks()
    assert by_lines == train(halves, 1000).get_mergeable_ranks()


def test_the_default_pattern_is_gpt4s() -> None:
    assert train(["x"]).get_pattern() == rustbpe.GPT4_PATTERN
    assert Tokenizer().get_pattern() == ""


def test_untrained_knows_the_bytes() -> None:
    untrained = Tokenizer()
    assert untrained.vocab_size == 256
    assert untrained.encode("abc") == []
    assert untrained.decode([104, 105]) == "hi"


def test_training_stops_when_no_pair_is_left() -> None:
    assert train(["ab ab"], 1000, pattern=r"\w+").vocab_size == 257


def test_special_tokens_come_last() -> None:
    trained = train(["ab ab"], 1000, pattern=r"\w+", special_tokens=SPECIALS)
    assert trained.special_tokens == {"<|bos|>": 257, "<|user_start|>": 258, "<|user_end|>": 259}
    assert trained.vocab_size == 260
    assert len(trained.get_mergeable_ranks()) == 257


def test_vocab_size_counts_special_tokens(texts: list[str]) -> None:
    assert train(texts, 300, special_tokens=SPECIALS).vocab_size == 300


def test_progress_is_told() -> None:
    calls: list[tuple[str, int, int | None]] = []
    train(["ab cd", "ef"], 257, buffer_size=1, progress=lambda *call: calls.append(call))
    assert calls[:2] == [("count", 1, None), ("count", 2, None)]
    assert calls[-1] == ("merge", 1, 1)


# Encoding


def test_text_comes_back(tokenizer: Tokenizer) -> None:
    for text in [*nasty_texts(500, seed=1), *library_texts(200_000)]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.count(text) == len(ids)


@given(st.text())
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.encode_to_numpy(text).tolist() == ids
    assert tokenizer.batch_encode([text, "", text]) == [ids, [], ids]


def test_numpy_type_follows_the_vocabulary(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_to_numpy("abc").dtype == np.uint16
    ranks = dict(tokenizer.get_mergeable_ranks())
    for last, dtype in [(65535, np.uint16), (65536, np.uint32)]:
        larger = Tokenizer.from_tiktoken(ranks, rustbpe.NANOCHAT_PATTERN, {"<|end|>": last})
        assert larger.encode_to_numpy("abc<|end|>", special="parse").dtype == dtype
        assert larger.encode_to_numpy("abc<|end|>", special="parse")[-1] == last
        assert larger.encode_to_numpy("").dtype == dtype
        ids, _ = larger.batch_encode_to_numpy(["a"], append=last)
        assert ids.dtype == dtype
        assert ids[-1] == last


def test_numpy_arrays_can_be_written(tokenizer: Tokenizer) -> None:
    array = tokenizer.encode_to_numpy("some text")
    array[0] = 1
    assert array[0] == 1


@pytest.mark.parametrize("threads", [None, 1, 2, 5])
def test_batches_agree_with_single_texts(
    tokenizer: Tokenizer, texts: list[str], threads: int | None
) -> None:
    batch = ["", "".join(texts[:40]), *texts[:300], "", *nasty_texts(300), ""]
    wanted = [tokenizer.encode(text) for text in batch]
    assert tokenizer.batch_encode(batch, threads) == wanted
    ids, offsets = tokenizer.batch_encode_to_numpy(batch, threads=threads)
    assert offsets.dtype == np.int64
    assert [part.tolist() for part in np.split(ids, offsets[1:-1])] == wanted
    bos = tokenizer.encode_special("<|bos|>")
    ids, offsets = tokenizer.batch_encode_to_numpy(batch, threads, prepend="<|bos|>", append=10)
    assert [part.tolist() for part in np.split(ids, offsets[1:-1])] == [
        [bos, *part, 10] for part in wanted
    ]


def test_an_empty_batch(tokenizer: Tokenizer) -> None:
    assert tokenizer.batch_encode([]) == []
    ids, offsets = tokenizer.batch_encode_to_numpy([])
    assert (ids.tolist(), offsets.tolist()) == ([], [0])


def test_texts_may_come_from_any_iterable(tokenizer: Tokenizer) -> None:
    wanted = tokenizer.batch_encode(["a", "bc"])
    assert tokenizer.batch_encode(("a", "bc")) == wanted
    assert tokenizer.batch_encode(text for text in ["a", "bc"]) == wanted


def test_a_tokenizer_serves_many_threads(tokenizer: Tokenizer, texts: list[str]) -> None:
    wanted = [tokenizer.encode(text) for text in texts[:30]]
    found: list[list[list[int]]] = []
    workers = [
        threading.Thread(target=lambda: found.append([tokenizer.encode(t) for t in texts[:30]]))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [wanted] * 4


# Special tokens


def test_special_tokens_in_text(tokenizer: Tokenizer) -> None:
    text = "a<|bos|>b<|user_end|>"
    bos, end = (tokenizer.encode_special(name) for name in ["<|bos|>", "<|user_end|>"])
    plain = tokenizer.encode(text)
    assert not {bos, end} & set(plain)
    assert plain == tokenizer.encode(text, special="text")
    assert tokenizer.decode(plain) == text
    parsed = tokenizer.encode(text, special="parse")
    assert parsed == [*tokenizer.encode("a"), bos, *tokenizer.encode("b"), end]
    assert tokenizer.decode(parsed) == text
    with pytest.raises(ValueError, match=r'"<\|bos\|>" at byte 1'):
        tokenizer.encode(text, special="raise")
    assert tokenizer.encode("ab", special="raise") == tokenizer.encode("ab")
    assert tokenizer.batch_encode([text], special="parse") == [parsed]
    assert tokenizer.encode_to_numpy(text, special="parse").tolist() == parsed
    assert tokenizer.count(text, special="parse") == len(parsed)


def test_special_tokens_can_be_added() -> None:
    trained = train(["ab ab"])
    size = trained.vocab_size
    trained.add_special_tokens(["<x>", "<x>y"])
    assert trained.special_tokens == {"<x>": size, "<x>y": size + 1}
    assert trained.encode("<x>y", special="parse") == [size + 1]
    with pytest.raises(ValueError, match="comes twice"):
        trained.add_special_tokens(["<x>"])
    assert trained.vocab_size == size + 2


# Decoding


def test_ids_may_end_within_a_character(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode_bytes([0xC3]) == b"\xc3"
    with pytest.raises(UnicodeDecodeError):
        tokenizer.decode([0xC3])
    assert tokenizer.decode([0xC3], errors="replace") == "\ufffd"
    assert tokenizer.decode([0xC3], errors="ignore") == ""


def test_ids_may_be_arrays(tokenizer: Tokenizer) -> None:
    for dtype in [np.uint16, np.int64]:
        array = np.array(tokenizer.encode("some text"), dtype=dtype)
        assert tokenizer.decode(array) == "some text"
        assert tokenizer.decode(list(array)) == "some text"
        assert tokenizer.decode(iter(array)) == "some text"


def test_byte_lengths_are_those_of_the_text(tokenizer: Tokenizer, texts: list[str]) -> None:
    lengths = tokenizer.token_byte_lengths()
    assert lengths.dtype == np.int32
    assert len(lengths) == tokenizer.vocab_size
    assert lengths[-3:].tolist() == [0, 0, 0]
    for text in texts[:50]:
        assert lengths[tokenizer.encode_to_numpy(text)].sum() == len(text.encode())


# Files


def test_a_file_holds_everything(tokenizer: Tokenizer, tmp_path: object) -> None:
    path = tmp_path / "tokenizer.bpe"  # type: ignore[operator]
    tokenizer.save(path)
    assert [p.name for p in path.parent.iterdir()] == ["tokenizer.bpe"]
    loaded = Tokenizer.load(str(path))
    for same in [loaded, pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)]:
        assert same.to_bytes() == tokenizer.to_bytes()
        assert same.special_tokens == tokenizer.special_tokens
        assert same.encode("some text") == tokenizer.encode("some text")


def test_damaged_and_foreign_files_are_refused(tokenizer: Tokenizer, tmp_path: object) -> None:
    contents = tokenizer.to_bytes()
    damaged = bytearray(contents)
    damaged[len(damaged) // 2] ^= 1
    for bad, message in [
        (bytes(damaged), "checksum does not match"),
        (contents[:-100], "damaged tokenizer file"),
        (b"", "not a rustbpe tokenizer file"),
        (b"\x80\x04\x95pickle", "not a rustbpe tokenizer file"),
        (b"rustbpe tokenizer 2\n", "version"),
    ]:
        with pytest.raises(ValueError, match=message):
            Tokenizer.from_bytes(bad)
    with pytest.raises(FileNotFoundError):
        Tokenizer.load(tmp_path / "missing")  # type: ignore[operator]
    with pytest.raises(FileNotFoundError):
        tokenizer.save(tmp_path / "missing" / "x")  # type: ignore[operator]
    with pytest.raises(IsADirectoryError):
        Tokenizer.load(tmp_path)  # type: ignore[arg-type]


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(contents: bytes) -> None:
    with pytest.raises(ValueError):
        Tokenizer.from_bytes(contents)
    with pytest.raises(ValueError):
        Tokenizer.from_bytes(b"rustbpe tokenizer 1\n" + contents)


# Memory


def test_training_memory_is_that_of_the_distinct_pieces() -> None:
    """The same lines again and again: memory must not grow with them."""
    resource = pytest.importorskip("resource")

    def lines() -> Iterator[str]:
        for number in range(400):
            yield f"line {number % 7} " * 50_000

    train(["warm up"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train(lines(), 300)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000, f"{grown} kB more for 140 MB of text"

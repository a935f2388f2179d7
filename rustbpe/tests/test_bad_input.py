"""Bad input is a Python exception of the fitting type that says what and where."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import rustbpe
from rustbpe import Tokenizer


def train(texts: Any = ("some text",), vocab_size: Any = 300, **options: Any) -> Tokenizer:
    trained = Tokenizer()
    trained.train_from_iterator(texts, vocab_size, **options)
    return trained


def raising() -> Iterator[str]:
    yield "some text"
    raise KeyError("half-way")


BAD_TRAINING: list[tuple[dict[str, Any], type[BaseException], str]] = [
    ({"vocab_size": 255}, ValueError, "vocab_size is 255, but must be at least 256"),
    (
        {"vocab_size": 257, "special_tokens": ["a", "b"]},
        ValueError,
        "must be at least 258: 256 bytes and 2 special tokens",
    ),
    ({"vocab_size": -1}, ValueError, "vocab_size must not be negative"),
    ({"vocab_size": 1 << 30}, ValueError, "must be at most 2097152"),
    ({"vocab_size": "300"}, TypeError, "vocab_size"),
    ({"texts": []}, ValueError, "no text to train on"),
    ({"texts": iter(())}, ValueError, "no text to train on"),
    ({"texts": ["", ""]}, ValueError, "no text to train on"),
    ({"texts": 7}, TypeError, "not iterable"),
    ({"texts": ["a", b"b"]}, TypeError, "item 1 of the iterator must be str, not bytes"),
    ({"texts": ["a", "b", None]}, TypeError, "item 2 of the iterator must be str, not NoneType"),
    ({"texts": raising()}, KeyError, "half-way"),
    ({"texts": ["a", "b\ud800"]}, UnicodeEncodeError, "item 1 of the iterator"),
    ({"pattern": "("}, ValueError, "invalid split pattern"),
    ({"pattern": "(" * 100_000}, ValueError, "invalid split pattern"),
    ({"pattern": r"\p{L}{1000}{1000}"}, ValueError, "invalid split pattern"),
    ({"pattern": r"(a|a)*\1c", "texts": ["a" * 5000]}, ValueError, "failed at byte 0"),
    ({"pattern": r"\p{Lo}+"}, ValueError, "no text to train on"),
    ({"buffer_size": 0}, ValueError, "buffer_size must be at least 1"),
    ({"buffer_size": -1}, ValueError, "buffer_size must not be negative"),
    ({"threads": 0}, ValueError, "threads must be at least 1"),
    ({"special_tokens": [""]}, ValueError, "is empty"),
    ({"special_tokens": ["a", "a"]}, ValueError, "comes twice"),
    ({"special_tokens": "ab"}, TypeError, "special_tokens"),
    ({"progress": lambda *_: 1 / 0}, ZeroDivisionError, "division"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), BAD_TRAINING)
def test_bad_training(arguments: dict[str, Any], kind: type[BaseException], message: str) -> None:
    with pytest.raises(kind, match=message.replace("(", r"\(")):
        train(**arguments)


def test_failed_training_changes_nothing() -> None:
    trained = train(["some text some"])
    before = trained.to_bytes()
    with pytest.raises(KeyError):
        trained.train_from_iterator(raising(), 300, pattern="x")
    assert trained.to_bytes() == before


def test_an_exhausted_iterator_is_an_error() -> None:
    texts = iter(["some text"])
    train(texts)
    with pytest.raises(ValueError, match="no text"):
        train(texts)


BAD_CALLS: list[tuple[Callable[[Tokenizer], object], type[BaseException], str]] = [
    (lambda t: t.encode("a\ud800"), UnicodeEncodeError, "position 1: surrogates not allowed"),
    (lambda t: t.encode_to_numpy("\udfff"), UnicodeEncodeError, "in text"),
    (lambda t: t.count("\udfff"), UnicodeEncodeError, "in text"),
    (lambda t: t.batch_encode(["", "x\udc80"]), UnicodeEncodeError, r"in texts\[1\]"),
    (lambda t: t.batch_encode("abc"), TypeError, "not one str"),
    (lambda t: t.batch_encode(["a", 1]), TypeError, r"texts\[1\] must be str, not int"),
    (lambda t: t.batch_encode(["a"], 0), ValueError, "threads must be at least 1"),
    (lambda t: t.batch_encode_to_numpy(["a"], threads=-1), ValueError, "threads must not be neg"),
    (lambda t: t.batch_encode_to_numpy(["a"], prepend=999), ValueError, "unknown token id 999"),
    (lambda t: t.batch_encode_to_numpy(["a"], append="<x>"), ValueError, 'special token "<x>"'),
    (lambda t: t.encode(b"abc"), TypeError, "text"),
    (lambda t: t.encode("abc", special="allow"), ValueError, "special must be"),
    (lambda t: t.decode([0, 300]), ValueError, "unknown token id 300 at index 1"),
    (lambda t: t.decode([-1]), ValueError, "unknown token id -1 at index 0"),
    (lambda t: t.decode([1 << 70]), ValueError, "unknown token id 1180591620717411303424"),
    (lambda t: t.decode(["a"]), TypeError, "str"),
    (lambda t: t.decode(5), TypeError, "not iterable"),
    (lambda t: t.decode([255], errors="nope"), LookupError, "nope"),
    (lambda t: t.encode_special("<x>"), ValueError, 'no special token "<x>"'),
    (lambda t: Tokenizer.from_tiktoken({b"a": 0}, "x"), ValueError, "single byte 0x00"),
    (lambda t: Tokenizer.from_tiktoken({"a": 0}, "x"), TypeError, "bytes"),
    (lambda t: Tokenizer.from_tiktoken({b"a": -1}, "x"), ValueError, "the id of b'a' is -1"),
    (lambda t: Tokenizer.from_hf_json("[]"), ValueError, "tokenizer.json"),
    (lambda t: Tokenizer.from_hf_json("{"), ValueError, "not JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), BAD_CALLS)
def test_bad_calls(
    call: Callable[[Tokenizer], object], kind: type[BaseException], message: str
) -> None:
    trained = train(["ab"], 257)
    with pytest.raises(kind, match=message):
        call(trained)


HOSTILE = {
    "one letter": "a" * 1_000_000,
    "spaces": " " * 1_000_000,
    "line ends": " \n" * 500_000,
    "punctuation": "=" * 1_000_000,
    "two letters": "ab" * 500_000,
    "bytes": bytes(i * i % 251 for i in range(700_000)).decode("latin-1"),
    "emoji": "👩\u200d" * 143_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_no_trap(tokenizer: Tokenizer, name: str) -> None:
    """It takes under a second; work that grew with the square of the length would run into the time limit."""
    text = HOSTILE[name]
    assert tokenizer.decode(tokenizer.encode_to_numpy(text)) == text


LONG_WORK = {
    "training": "rustbpe.Tokenizer().train_from_iterator(map(text, range(10**9)), 300)",
    "merging": 'rustbpe.Tokenizer().train_from_iterator([words], 2_000_000, pattern="[^ ]+")',
    "encoding": "trained.encode('a' * 60_000_000)",
    "a batch": "trained.batch_encode_to_numpy(['a' * 30_000_000] * 4)",
    "a pattern": "slow.encode('a' * 1_000_000)",
}


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("work", LONG_WORK)
def test_ctrl_c_stops_long_work(work: str) -> None:
    script = f"""
import random, rustbpe, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs the tests may have it ignored
rng = random.Random(0)
def text(i): return "some text %d " % i * 1000
trained = rustbpe.Tokenizer()
trained.train_from_iterator(["aaaaaaaa bb"], 260)
words = " ".join("%x" % rng.getrandbits(80) for _ in range(1_000_000)) if {work!r} == "merging" else ""
slow = rustbpe.Tokenizer.from_tiktoken({{bytes([i]): i for i in range(256)}}, r"(?:(?=a*b)|)a")
print("ready", flush=True)
try:
    {LONG_WORK[work]}
except KeyboardInterrupt:
    print("stopped", flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.7)
    child.send_signal(signal.SIGINT)
    last = child.stdout.read()
    child.wait(timeout=30)
    if not last:
        pytest.skip("the work was done before it could be interrupted")
    assert last == "stopped\n"


def test_the_gil_is_free_meanwhile(tokenizer: Tokenizer) -> None:
    import threading

    text = "some words and numbers 123 " * 1_000_000
    worker = threading.Thread(target=lambda: tokenizer.count(text))
    worker.start()
    steps = 0
    while worker.is_alive():
        steps += 1
        time.sleep(0)
    assert steps > 100


def test_nothing_is_printed_and_nothing_panics(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments, kind, _ in BAD_TRAINING:
        if not isinstance(arguments.get("texts"), Iterator):
            with pytest.raises(kind):
                train(**arguments)
    assert capfd.readouterr() == ("", "")
    assert rustbpe.__version__

"""Train the tokenizer on the training shards: python -m scripts.tok_train"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from nanochat import flags
from nanochat.dataset import resolve
from nanochat.files import base_dir
from nanochat.shards import Dataset, read_documents
from nanochat.tokenizer import SMALLEST_VOCAB, SPECIALS, Tokenizer, default_path
from nanochat.visible import visible

SAMPLE_DOCUMENTS = 1000
"""Documents of the validation shard on which bytes per token are measured."""

PAUSE = 5.0
"""Seconds between two lines of progress."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = flags.Parser("Train the tokenizer on the training shards.")
    parser.add_argument(
        "--max-chars", type=_amount, default=2_000_000_000, help="characters to read, as 2e9"
    )
    parser.add_argument(
        "--doc-cap", type=flags.positive, default=10_000, help="characters of a document to read"
    )
    parser.add_argument(
        "--vocab-size", type=flags.at_least(SMALLEST_VOCAB), default=32_768,
        help="tokens: 256 bytes, merges, 9 special tokens",
    )  # fmt: skip
    parser.add_argument("--data", default="auto", help="name or folder of a dataset")
    args = parser.parse_args(argv)

    dataset = resolve(args.data, say=_say)
    _say(f"reading {dataset.folder}, {len(dataset.train)} training shards")
    text = Text(dataset, args.max_chars, args.doc_cap)
    start = time.perf_counter()
    tokenizer = Tokenizer.train(text, args.vocab_size, Progress())
    seconds = time.perf_counter() - start
    _say(
        f"trained on {text.chars:,} characters of {text.documents:,} documents in {seconds:.1f} s, "
        f"{text.chars / seconds:,.0f} characters/s"
    )
    if tokenizer.vocab_size < args.vocab_size:
        merges = tokenizer.vocab_size - SMALLEST_VOCAB
        _say(
            f"note: this text gives only {merges:,} merges, so the vocabulary has {tokenizer.vocab_size:,} "
            f"tokens instead of {args.vocab_size:,}; more or longer documents give more"
        )
    _describe(tokenizer, dataset)
    _save(tokenizer)


class Text(Iterator[str]):
    """The beginning of each training document until there are enough characters; counts what it gave."""

    def __init__(self, dataset: Dataset, max_chars: int, doc_cap: int) -> None:
        self.chars = self.documents = 0
        self._most = max_chars
        self._documents = (
            text[:doc_cap] for path in dataset.train for text in read_documents(path)
        )

    def __next__(self) -> str:
        if self.chars >= self._most:
            raise StopIteration
        text = next(self._documents)[: self._most - self.chars]
        self.chars += len(text)
        self.documents += 1
        return text


class Progress:
    """Says now and then how far the training is."""

    def __init__(self) -> None:
        self._spoken = time.monotonic()

    def __call__(self, phase: str, done: int, of: int | None) -> None:
        """Hear from the trainer: ("count", texts, None), then ("merge", done, of)."""
        if time.monotonic() - self._spoken < PAUSE:
            return
        self._spoken = time.monotonic()
        _say(f"{done:,} documents read" if of is None else f"{done:,} of {of:,} merges")


def _describe(tokenizer: Tokenizer, dataset: Dataset) -> None:
    lengths = tokenizer.byte_lengths()[: -len(SPECIALS)]
    _say(
        f"{tokenizer.vocab_size:,} tokens of {lengths.min()} to {lengths.max()} bytes, "
        f"mean {lengths.mean():.2f}, standard deviation {np.std(lengths):.2f}"
    )
    sample = list(islice(read_documents(dataset.validation), SAMPLE_DOCUMENTS))
    _, offsets = tokenizer.encode_documents(sample)
    size = sum(len(text.encode("utf-8", "replace")) for text in sample)
    if tokens := int(offsets[-1]) - len(sample):
        _say(f"{size / tokens:.2f} bytes per token in {len(sample):,} validation documents")


def _save(tokenizer: Tokenizer) -> None:
    kept = tokenizer.save()
    _say(f"saved {default_path()}, fingerprint {tokenizer.fingerprint}")
    if kept is None:
        return
    _say(f"the tokenizer that was there is kept as {kept}")
    checkpoints = base_dir() / "base_checkpoints"
    if any(checkpoints.glob("*/*")):
        _say(
            f"note: models in {checkpoints} were trained with another tokenizer; to use them, copy theirs "
            f"back over {default_path().name}"
        )


def _amount(text: str) -> int:
    """A whole number that may be written 2e9 or 2_000_000."""
    try:
        value = float(text)
        if not value.is_integer() or value < 1:
            raise ValueError
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"'{text}' is no whole number of at least 1, such as 2e9"
        ) from None
    return int(value)


def _say(line: str) -> None:
    print(visible(line), flush=True)


if __name__ == "__main__":
    flags.run(main)

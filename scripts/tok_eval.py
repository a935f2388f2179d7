"""How well our tokenizer compresses, beside those of GPT-2 and GPT-4: python -m scripts.tok_eval"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from nanochat import flags, vocabularies
from nanochat.dataset import resolve
from nanochat.sample_texts import SAMPLES
from nanochat.shards import read_documents
from nanochat.tokenizer import Tokenizer
from nanochat.visible import visible
from nanochat.vocabularies import Vocabulary

DOCUMENTS = 1000
"""Documents of each split of the dataset."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = flags.Parser("Compare the tokenizer with those of GPT-2 and GPT-4.")
    parser.add_argument("--data", default="auto", help="name or folder of a dataset")
    parser.add_argument(
        "--vocab-dir", type=Path,
        help="folder with gpt2.tiktoken, r50k_base.tiktoken, vocab.bpe, cl100k_base.tiktoken or "
        "tokenizer.json; tiktoken's cache is looked into as well",
    )  # fmt: skip
    args = parser.parse_args(argv)

    ours = Vocabulary("ours", Tokenizer.load().core)
    others = list(vocabularies.find(args.vocab_dir, _say))
    dataset = resolve(args.data, say=_say)
    texts = {
        **{name: [text] for name, text in SAMPLES.items()},
        "train": list(islice(read_documents(dataset.train[0]), DOCUMENTS)),
        "val": list(islice(read_documents(dataset.validation), DOCUMENTS)),
    }
    for line in _table(ours, others, texts):
        _say(line)


def _table(
    ours: Vocabulary, others: Sequence[Vocabulary], texts: Mapping[str, Sequence[str]]
) -> list[str]:
    """Bytes per token of each vocabulary, and of the others how much of ours that is."""
    lines = [f"{'bytes per token':<16}{'bytes':>12}{'ours':>8}"]
    lines[0] += "".join(f"{vocabulary.name:>14}{'ours/it':>9}" for vocabulary in others)
    lines.append(f"{'vocabulary':<16}{'':>12}{ours.core.vocab_size:>8,}")
    lines[1] += "".join(f"{vocabulary.core.vocab_size:>14,}{'':>9}" for vocabulary in others)
    for name, documents in texts.items():
        size = sum(len(text.encode("utf-8", "replace")) for text in documents)
        own = _bytes_per_token(ours, documents, size)
        line = f"{name:<16}{size:>12,}{own:>8.2f}"
        for vocabulary in others:
            its = _bytes_per_token(vocabulary, documents, size)
            line += f"{its:>14.2f}{own / its:>9.3f}"
        lines.append(line)
    return lines


def _bytes_per_token(vocabulary: Vocabulary, documents: Sequence[str], size: int) -> float:
    _, offsets = vocabulary.core.batch_encode_to_numpy(documents)
    return size / max(1, int(offsets[-1]))


def _say(line: str) -> None:
    print(visible(line), flush=True)


if __name__ == "__main__":
    flags.run(main)

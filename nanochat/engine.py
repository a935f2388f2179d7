"""Generation: from the tokens of a prompt to those that follow, several samples at a time."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch

from nanochat.device import warn_once
from nanochat.errors import NanochatError, WrongUsage
from nanochat.model import GPT, Cache


class Vocabulary(Protocol):
    """What is needed of a `Tokenizer`."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def bos(self) -> int: ...
    def special(self, name: str) -> int: ...


class ByteDecoder(Protocol):
    """What text needs of a `Tokenizer`."""

    def decode_bytes(self, ids: Sequence[int]) -> bytes: ...


class Column(NamedTuple):
    """One step of generation; both lists have an entry for each sample."""

    tokens: list[int]
    done: list[bool]
    """Whether the sample has ended: its token here is the one that ended it, now or some columns ago."""


class Engine:
    """Continues prompts with a model; keeps nothing between two calls."""

    def __init__(self, model: GPT, tokenizer: Vocabulary) -> None:
        """Pair a model with the tokenizer that it was trained with.

        Raises:
            NanochatError: the two have vocabularies of different size.
        """
        if tokenizer.vocab_size != model.config.vocab_size:
            raise NanochatError(
                f"the tokenizer has {tokenizer.vocab_size:,} tokens and the model {model.config.vocab_size:,}, so they "
                "do not belong together; bring back the tokenizer that the model was trained with"
            )
        self.model = model
        self.bos = tokenizer.bos
        self.ends = frozenset({tokenizer.bos, tokenizer.special("<|assistant_end|>")})
        """Tokens that end a sample, unless a call names others."""

    def generate(
        self,
        prompt_ids: Sequence[int],
        *,
        samples: int = 1,
        max_tokens: int = 256,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 42,
        stop: Collection[int] | None = None,
    ) -> Iterator[Column]:
        """The tokens after a prompt, a column of one token per sample at a time, until all samples have ended.

        A prompt longer than the model's sequence length is cut on the left, behind its BOS, with a note. What is
        generated may go on beyond that length: a token's position matters only relative to others, and attention
        never looks further back than in training.

        Args:
            prompt_ids: BOS and what follows it.
            samples: how many continuations to make; they share the work on the prompt.
            max_tokens: how many columns at most.
            temperature: 0 always takes the likeliest token; below 1 sharpens probabilities, above 1 flattens them.
            top_k: choose among this many likeliest tokens; None or 0 is among all.
            seed: of a random generator that belongs to this call alone; torch's own is not touched.
            stop: tokens that end a sample; BOS and the assistant's end by default.

        Raises:
            WrongUsage: a number is out of its range.
            NanochatError: the prompt is empty, it holds ids that the model does not know, or the model is broken.
        """
        _check(samples, max_tokens, temperature, top_k)
        ids = self._fitted(prompt_ids)
        return self._columns(
            ids, samples, max_tokens, Sampler(temperature, top_k, seed),
            self.ends if stop is None else frozenset(stop),
        )  # fmt: skip

    def complete(
        self,
        prompt_ids: Sequence[int],
        *,
        samples: int = 1,
        max_tokens: int = 256,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 42,
        stop: Collection[int] | None = None,
    ) -> list[list[int]]:
        """The whole continuation of each sample, without the prompt and without the token that ended it.

        Arguments and errors are those of `generate`.
        """
        rows: list[list[int]] = [[] for _ in range(samples)]
        for column in self.generate(
            prompt_ids, samples=samples, max_tokens=max_tokens, temperature=temperature, top_k=top_k,
            seed=seed, stop=stop,
        ):  # fmt: skip
            for row, token, done in zip(rows, *column, strict=True):
                if not done:
                    row.append(token)
        return rows

    def _columns(
        self, ids: list[int], samples: int, max_tokens: int, sampler: Sampler, stop: Collection[int]
    ) -> Iterator[Column]:
        weight = self.model.head.weight
        # The prompt is read once, by one row. The cache has room for all that may come, so that it never grows.
        cache = Cache(
            self.model.config, 1, len(ids) + max_tokens, weight.device, self.model.compute_dtype
        )
        logits = self._read([ids], cache).expand(samples, -1)
        if samples > 1:
            cache = cache.repeat(samples)
        column = Column([], [False] * samples)
        for number in range(1, max_tokens + 1):
            chosen = sampler(logits)
            # A tool that answers in a sample's place would put its tokens in here.
            tokens = [
                last if done else new
                for new, last, done in zip(
                    chosen, column.tokens or chosen, column.done, strict=True
                )
            ]
            column = Column(tokens, [token in stop for token in tokens])
            yield column
            if all(column.done) or number == max_tokens:
                return
            logits = self._read([[token] for token in tokens], cache)

    def _read(self, rows: list[list[int]], cache: Cache) -> torch.Tensor:
        """Give the model more tokens; the logits of what comes after the last one, (rows, vocab_size)."""
        tokens = torch.tensor(rows, device=self.model.head.weight.device)
        with torch.no_grad():
            return self.model.logits(self.model.hidden(tokens, cache)[:, -1])

    def _fitted(self, prompt_ids: Sequence[int]) -> list[int]:
        ids, most = list(prompt_ids), self.model.config.sequence_len
        if not ids:
            raise NanochatError("there is nothing to continue; a prompt begins with BOS at least")
        if not 0 <= min(ids) <= max(ids) < self.model.config.vocab_size:
            raise NanochatError(
                f"the prompt has ids from {min(ids)} to {max(ids)}, but the model knows those below "
                f"{self.model.config.vocab_size:,}; encode it with the model's own tokenizer"
            )
        if len(ids) <= most:
            return ids
        warn_once(
            f"the prompt has {len(ids):,} tokens, but the model was trained on {most:,}; only the last ones are read"
        )
        start = ids[:1] if ids[0] == self.bos else []
        return start + ids[len(ids) - most + len(start) :]


class Sampler:
    """Chooses tokens by their logits, with random numbers of its own."""

    def __init__(self, temperature: float, top_k: int | None, seed: int) -> None:
        self.temperature, self.top_k = temperature, top_k
        # On the CPU, so that a seed means the same on every device; the ids have to come to the host anyway.
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, logits: torch.Tensor) -> list[int]:
        """One token for each row of logits, (rows, vocab_size).

        Raises:
            NanochatError: a logit is not a number.
        """
        vocab = logits.shape[-1]
        # At temperature 0 the choice is among one.
        candidates = min(self.top_k or vocab, vocab) if self.temperature else 1
        scores, ids = (logits, None) if candidates == vocab else logits.topk(candidates)
        best = scores.amax(dim=-1, keepdim=True)
        if not best.isfinite().all():
            raise NanochatError(
                "the model's output is not a number, so its weights are broken; load an earlier step"
            )
        # Double precision, and the largest taken off first: no temperature is too low.
        scaled = (scores - best).cpu().double() / (self.temperature or 1.0)
        picked = torch.multinomial(scaled.softmax(dim=-1), 1, generator=self.generator)
        tokens: list[int] = (picked if ids is None else ids.cpu().gather(1, picked))[:, 0].tolist()
        return tokens


class TextStream:
    """Text out of tokens that come one by one, held back while its last character is not whole."""

    def __init__(self, tokenizer: ByteDecoder) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """What can be shown now; U+FFFD stands for bytes that no later token can mend."""
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    def end(self) -> str:
        """What was still held back; the next token starts a new text."""
        return self._decoder.decode(b"", final=True)


def _check(samples: int, max_tokens: int, temperature: float, top_k: int | None) -> None:
    for name, value, least in (
        ("the number of samples", samples, 1),
        ("the number of tokens to generate", max_tokens, 0),
        ("top-k", top_k or 0, 0),
    ):
        if value < least:
            raise WrongUsage(f"{name} is {value}, but must be at least {least}")
    if not 0 <= temperature < float("inf"):
        raise WrongUsage(f"a temperature of {temperature} makes no sense; choose 0 to 2")

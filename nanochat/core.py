"""CORE: how well a base model solves tasks from examples in its prompt, compared with guessing.

Prompts, draws and scores are those with which GPT-2's published numbers were made, so that they compare.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from nanochat.bundle import Bundle, Example, Task, read_examples
from nanochat.loss import IGNORED

SHUFFLE_SEED = 1337
SHOTS_SEED = 1234
BETWEEN_EXAMPLES = "\n\n"

GPT2_CORE = {
    "GPT-2 (124M)": 0.1139,
    "GPT-2 Medium (355M)": 0.1849,
    "GPT-2 Large (774M)": 0.2146,
    "GPT-2 XL (1.6B)": 0.256525,
}
"""CORE of OpenAI's models on all 22 tasks, as nanochat publishes it."""

WINDOW = 512
"""Examples that are turned into tokens and sorted by length together: enough to waste little padding."""

Ids = NDArray[np.integer[Any]]
Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits (n, vocab) and targets (n,) -> one number for each, 0 being best."""


class Model(Protocol):
    """What is needed of a `GPT`: its logits are only worked out for the few tokens that decide."""

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T) ids -> (B, T, width)."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, width) -> (n, vocab)."""


class Encoder(Protocol):
    """What is needed of a `Tokenizer`."""

    @property
    def bos(self) -> int: ...
    def encode_documents(self, texts: Sequence[str]) -> tuple[Ids, NDArray[np.int64]]: ...


class Ranks(Protocol):
    """What is needed of a `World`."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    def gather_objects(self, thing: Any) -> list[Any]: ...


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model that is examined, and how it is run."""

    model: Model
    tokenizer: Encoder
    device: torch.device
    world: Ranks
    sequence_len: int
    """Prompts that are longer lose their beginning."""
    batch_size: int
    """Rows that go through the model at once."""


@dataclass(frozen=True)
class TaskScore:
    """How many questions of a task were answered right."""

    task: Task
    right: int
    asked: int

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.asked

    @property
    def centred(self) -> float:
        """0 for guessing, 1 for no mistake."""
        return (self.accuracy - self.task.baseline) / (1 - self.task.baseline)


@dataclass(frozen=True)
class Scores:
    """The scores of a bundle."""

    name: str
    """CORE, or how much of it this is."""
    tasks: tuple[TaskScore, ...]

    @property
    def value(self) -> float:
        """The mean of the centred accuracies."""
        return sum(score.centred for score in self.tasks) / len(self.tasks)


@dataclass(frozen=True)
class Row:
    """One option of a question: its tokens, and from which on they are its own."""

    ids: Ids
    start: int


def evaluate(
    subject: Subject,
    bundle: Bundle,
    max_per_task: int = -1,
    heard: Callable[[TaskScore], object] = lambda score: None,
) -> Scores:
    """Score all tasks of a bundle; `heard` gets each score as soon as it is known.

    All ranks must call, and all get the same scores.

    Args:
        subject: the model and how it is run.
        bundle: what it is asked.
        max_per_task: how many questions of each task; all if not positive.
        heard: called with each task's score.

    Raises:
        NanochatError: the bundle is damaged.
    """
    # All files first: a damaged one must not show after hours.
    examples = [read_examples(task) for task in bundle.tasks]
    scores = []
    for task, own in zip(bundle.tasks, examples, strict=True):
        scores.append(_score(subject, task, own, max_per_task))
        heard(scores[-1])
    return Scores(bundle.score_name, tuple(scores))


def evaluate_task(subject: Subject, task: Task, max_per_task: int = -1) -> TaskScore:
    """Score one task; rank r answers questions r, r + size, …

    Raises:
        NanochatError: its file is damaged.
    """
    return _score(subject, task, read_examples(task), max_per_task)


def _score(subject: Subject, task: Task, examples: list[Example], max_per_task: int) -> TaskScore:
    examples = list(examples)
    random.Random(SHUFFLE_SEED).shuffle(examples)
    asked = min(max_per_task, len(examples)) if max_per_task > 0 else len(examples)
    # A shortened task draws its solved examples from what is left of it, as long as there are enough.
    pool = examples[: max(asked, task.shots + 1)]
    right = 0
    numbers = iter(range(subject.world.rank, asked, subject.world.size))
    while window := list(islice(numbers, WINDOW)):
        texts = [prompts(pool[i], drawn(pool, i, task.shots), task) for i in window]
        right += sum(_answers(subject, task.kind, texts, [pool[i].gold for i in window]))
    return TaskScore(task, sum(subject.world.gather_objects(right)), asked)


def drawn(pool: Sequence[Example], index: int, shots: int) -> list[Example]:
    """The solved examples that are shown before question `index`, which is never among them."""
    numbers = random.Random(SHOTS_SEED + index).sample(range(len(pool) - 1), shots)
    return [pool[i + (i >= index)] for i in numbers]


def prompts(example: Example, shown: Sequence[Example], task: Task) -> list[str]:
    """What the model reads: one text for each option.

    A task of one option gets its text without the continuation first. It ends without blanks: in most
    vocabularies they belong to the token that follows.
    """
    between = task.delimiter
    head = "".join(
        f"{solved.contexts[solved.gold]}{between}{solved.continuations[solved.gold]}{BETWEEN_EXAMPLES}"
        for solved in shown
    )
    begun = [f"{head}{context}{between}" for context in example.contexts]
    texts = [
        text + continuation for text, continuation in zip(begun, example.continuations, strict=True)
    ]
    return [begun[0].rstrip(), *texts] if task.kind == "language_modeling" else texts


def own_tokens(kind: str, rows: Sequence[Ids]) -> list[Row]:
    """Where the tokens begin that decide: after what all options share, or, of a schema, the shared end.

    Found by comparing tokens, because a tokenizer may join the end of a context with what follows. Each row
    keeps at least its last token.
    """
    shortest = min(len(ids) for ids in rows)
    if kind == "schema":
        shared = max(1, _shared([ids[::-1] for ids in rows]))
        return [Row(ids, max(1, len(ids) - shared)) for ids in rows]
    if kind == "language_modeling":
        begun, whole = rows
        return [Row(whole, max(1, min(_shared([begun, whole]), len(whole) - 1)))]
    return [Row(ids, max(1, min(_shared(rows), shortest - 1))) for ids in rows]


def _shared(rows: Sequence[Ids]) -> int:
    """How many tokens all rows begin with."""
    length = min(len(ids) for ids in rows)
    same = np.all([ids[:length] == rows[0][:length] for ids in rows], axis=0)
    return length if same.all() else int(same.argmin())


def _answers(
    subject: Subject, kind: str, texts: Sequence[Sequence[str]], golds: Sequence[int]
) -> Iterator[bool]:
    """For each question whether it was answered right."""
    ids, offsets = subject.tokenizer.encode_documents(
        [text for options in texts for text in options]
    )
    pieces = (ids[start:end] for start, end in pairwise(offsets))
    questions = [own_tokens(kind, list(islice(pieces, len(options)))) for options in texts]
    faults = iter(_faults(subject, kind, [row for question in questions for row in question]))
    for question, gold in zip(questions, golds, strict=True):
        own = list(islice(faults, len(question)))
        # Without a choice it must be exact; with one, the least fault is the answer, the first of equals.
        yield own[0] == 0 if kind == "language_modeling" else own.index(min(own)) == gold


def _faults(subject: Subject, kind: str, rows: Sequence[Row]) -> list[float]:
    """How far each row's own tokens are from what the model would say, in the order of the rows."""
    rows = [_cropped(row, subject.sequence_len) for row in rows]
    # The longest first: if memory is short, that shows at once.
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    measure = _missed if kind == "language_modeling" else _losses
    faults = [0.0] * len(rows)
    for start in range(0, len(order), subject.batch_size):
        batch = order[start : start + subject.batch_size]
        tokens, targets = _stacked([rows[i] for i in batch], subject.tokenizer.bos)
        tokens, targets = tokens.to(subject.device), targets.to(subject.device)
        means = _means(subject.model, measure, tokens, targets)
        for i, mean in zip(batch, means.tolist(), strict=True):
            faults[i] = mean
    return faults


def _cropped(row: Row, most: int) -> Row:
    """The last `most` tokens."""
    surplus = max(0, len(row.ids) - most)
    return Row(row.ids[surplus:], max(1, row.start - surplus))


def _stacked(rows: Sequence[Row], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets (B, T), only own tokens being targets; padding is on the right, where none looks."""
    width = max(len(row.ids) for row in rows) - 1
    tokens = np.full((len(rows), width), padding, dtype=np.int64)
    targets = np.full((len(rows), width), IGNORED, dtype=np.int64)
    for number, row in enumerate(rows):
        end = len(row.ids) - 1
        tokens[number, :end] = row.ids[:-1]
        targets[number, row.start - 1 : end] = row.ids[row.start :]
    return torch.from_numpy(tokens), torch.from_numpy(targets)


def _means(
    model: Model, measure: Measure, tokens: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """The mean of a measure over each row's targets: (B,) float32."""
    counted = targets != IGNORED
    grid = torch.zeros(targets.shape, device=targets.device)
    with torch.no_grad():
        grid[counted] = measure(model.logits(model.hidden(tokens)[counted]), targets[counted])
    return grid.sum(1) / counted.sum(1)


def _losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of each target in nats."""
    return F.cross_entropy(logits, targets, reduction="none").float()


def _missed(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 where a target is not the likeliest token."""
    return (logits.argmax(-1) != targets).float()

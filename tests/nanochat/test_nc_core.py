"""CORE on bundles made here, with models whose answers are known, against a slow second implementation."""

from __future__ import annotations

import json
import math
import random
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
yaml = pytest.importorskip("yaml")

from nanochat.bundle import PUBLISHED, Bundle, Example, Task, read_bundle, read_examples  # noqa: E402
from nanochat.core import Subject, drawn, evaluate, evaluate_task, own_tokens, prompts  # noqa: E402
from nanochat.errors import NanochatError  # noqa: E402

BOS = 256


class Bytes:
    """A tokenizer of bytes."""

    bos = BOS

    def encode_documents(self, texts: Sequence[str]) -> tuple[Any, Any]:
        rows = [[BOS, *text.encode()] for text in texts]
        ids = np.array([i for row in rows for i in row], dtype=np.uint16)
        return ids, np.cumsum([0, *map(len, rows)])


class Words(Bytes):
    """A tokenizer of words, each with the blanks before it; ids as they come."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {"": BOS}

    def id(self, word: str) -> int:
        return self.ids.setdefault(word, len(self.ids) if len(self.ids) < BOS else 299)

    def encode_documents(self, texts: Sequence[str]) -> tuple[Any, Any]:
        rows = [[BOS, *map(self.id, re.findall(r"\s*\S+|\s+", text))] for text in texts]
        ids = np.array([i for row in rows for i in row], dtype=np.uint16)
        return ids, np.cumsum([0, *map(len, rows)])


class Bigram:
    """Logits that depend on the token before; remembers the shapes that it saw."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table
        self.shapes: list[tuple[int, ...]] = []

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(tokens.shape))
        return tokens.unsqueeze(-1)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.table[hidden.squeeze(-1)]


def guesser(seed: int = 0) -> Bigram:
    """A model of bytes that knows nothing, in doubles, so that no two losses are equal by rounding."""
    generator = torch.Generator().manual_seed(seed)
    return Bigram(torch.randn(257, 257, generator=generator, dtype=torch.float64))


@dataclass
class Alone:
    """One rank."""

    rank: int = 0
    size: int = 1

    def gather_objects(self, thing: object) -> list[object]:
        return [thing]


@dataclass
class Meeting:
    """Ranks that are threads; each gets what all of them gave."""

    size: int
    barrier: threading.Barrier = field(init=False)
    things: dict[int, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=20)


@dataclass
class Member:
    rank: int
    meeting: Meeting

    @property
    def size(self) -> int:
        return self.meeting.size

    def gather_objects(self, thing: object) -> list[object]:
        self.meeting.things[self.rank] = thing
        self.meeting.barrier.wait()
        things = [self.meeting.things[rank] for rank in range(self.size)]
        self.meeting.barrier.wait()
        return things


def subject(model: Any, tokenizer: Any = None, **changes: Any) -> Subject:
    settings: dict[str, Any] = {
        "model": model,
        "tokenizer": tokenizer or Bytes(),
        "device": torch.device("cpu"),
        "world": Alone(),
        "sequence_len": 4096,
        "batch_size": 8,
    }
    return Subject(**{**settings, **changes})


# --- a bundle -----------------------------------------------------------------------------


@dataclass
class Draft:
    """A bundle before it is written; tests spoil copies of it."""

    tasks: list[dict[str, Any]]
    meta: list[tuple[str, str]]
    data: dict[str, list[dict[str, Any]]]

    def write(self, folder: Path) -> Path:
        (folder / "eval_data").mkdir(parents=True)
        (folder / "core.yaml").write_text(yaml.safe_dump({"icl_tasks": self.tasks}))
        lines = ["Eval Task,Task Category,Random baseline"]
        lines += [f"{label},any kind,{percent}" for label, percent in self.meta]
        (folder / "eval_meta_data.csv").write_text("\n".join(lines) + "\n")
        for name, rows in self.data.items():
            (folder / "eval_data" / name).write_text(
                "".join(json.dumps(row) + "\n" for row in rows)
            )
        return folder


def entry(label: str, kind: str, shots: int, **more: str) -> dict[str, Any]:
    return {
        "label": label,
        "dataset_uri": f"{label}.jsonl",
        "num_fewshot": [shots],
        "icl_task_type": kind,
        **more,
    }


def draft(count: int = 23, seed: int = 5) -> Draft:
    """Three tasks of nonsense, one of each type, with blanks and letters of several bytes in them."""
    dice = random.Random(seed)

    def words(most: int) -> str:
        letters = "abcé e\n 数x"
        return "w" + "".join(dice.choice(letters) for _ in range(dice.randint(1, most)))

    choices = [
        {"query": words(12), "choices": [words(6) for _ in range(n)], "gold": dice.randrange(n)}
        for n in (dice.randint(2, 5) for _ in range(count))
    ]
    schema = [
        {
            "context_options": [words(9), words(9)],
            "continuation": words(7),
            "gold": dice.randrange(2),
        }
        for _ in range(count)
    ]
    # One byte each, or a model that guesses would never be right.
    modeling = [
        {"context": f" {words(9)} ", "continuation": dice.choice("abcx")} for _ in range(count)
    ]
    return Draft(
        tasks=[
            entry("copa", "multiple_choice", 3, continuation_delimiter="\nAnswer: "),
            entry("winograd", "schema", 0),
            entry("jeopardy", "language_modeling", 2),
        ],
        meta=[("copa", "40"), ("winograd", "50"), ("jeopardy", "0")],
        data={"copa.jsonl": choices, "winograd.jsonl": schema, "jeopardy.jsonl": modeling},
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return read_bundle(draft().write(tmp_path / "bundle"))


# --- known answers ------------------------------------------------------------------------


def test_answers_that_are_known(tmp_path: Path) -> None:
    """A model that knows four pairs of words is right exactly where they decide."""
    tokenizer = Words()
    table = torch.zeros(300, 300)
    for before, after in [
        (" is", " blue"),
        (" is", " wet"),
        (" big", " tired."),
        (" of", " Paris"),
    ]:
        table[tokenizer.id(before), tokenizer.id(after)] = 9

    known = Draft(
        tasks=[
            entry("copa", "multiple_choice", 0),
            entry("winograd", "schema", 0),
            entry("jeopardy", "language_modeling", 0),
        ],
        meta=[("copa", "50"), ("winograd", "50"), ("jeopardy", "0")],
        data={
            "copa.jsonl": [
                {"query": "the sky is", "choices": ["blue", "green"], "gold": 0},
                {"query": "the sea is", "choices": ["dry", "wet"], "gold": 1},
                {"query": "the sun is", "choices": ["cold", "wet"], "gold": 0},
                {"query": "my hat is", "choices": ["red", "blue"], "gold": 1},
            ],
            "winograd.jsonl": [
                {
                    "context_options": ["the mouse saw the cat as small", "the dog was big"],
                    "continuation": "tired.",
                    "gold": 1,
                },
                {
                    "context_options": ["the house was big", "the door was red"],
                    "continuation": "tired.",
                    "gold": 1,
                },
            ],
            "jeopardy.jsonl": [
                {"context": "the capital of ", "continuation": "Paris"},
                {"context": "the rest of", "continuation": "us"},
                {"context": "the end of", "continuation": "Paris then"},
            ],
        },
    )
    bundle = read_bundle(known.write(tmp_path / "known"))
    heard = []
    scores = evaluate(subject(Bigram(table), tokenizer), bundle, heard=heard.append)
    assert [(score.right, score.asked) for score in scores.tasks] == [(3, 4), (1, 2), (1, 3)]
    assert [score.centred for score in scores.tasks] == pytest.approx([0.5, 0, 1 / 3])
    assert scores.value == pytest.approx((0.5 + 0 + 1 / 3) / 3)
    assert heard == list(scores.tasks)


# --- the slow way -------------------------------------------------------------------------


def slowly(model: Bigram, task: Task, rows: list[dict[str, Any]], limit: int) -> list[bool]:
    """Text by text, byte by byte, from the published description."""
    rows = list(rows)
    random.Random(1337).shuffle(rows)
    rows = rows[:limit] if limit > 0 else rows
    losses = -torch.log_softmax(model.table, dim=1)
    answers = []
    for index, row in enumerate(rows):
        others = [i for i in range(len(rows)) if i != index]
        shown = [rows[i] for i in random.Random(1234 + index).sample(others, task.shots)]
        head = ""
        for other in shown:
            if task.kind == "multiple_choice":
                head += other["query"] + task.delimiter + other["choices"][other["gold"]]
            elif task.kind == "schema":
                head += other["context_options"][other["gold"]] + task.delimiter
                head += other["continuation"]
            else:
                head += other["context"].strip() + task.delimiter + other["continuation"]
            head += "\n\n"

        if task.kind == "language_modeling":
            begun = (head + row["context"].strip() + task.delimiter).strip().encode()
            whole = (head + row["context"].strip() + task.delimiter + row["continuation"]).encode()
            said = [int(model.table[b].argmax()) for b in whole[len(begun) - 1 : -1]]
            answers.append(said == list(whole[len(begun) :]))
            continue

        if task.kind == "multiple_choice":
            texts = [
                (head + row["query"] + task.delimiter + choice).encode()
                for choice in row["choices"]
            ]
            start = next(i for i in range(9999) if len({text[i : i + 1] for text in texts}) > 1)
            starts = [min(start, min(map(len, texts)) - 1)] * len(texts)
        else:
            texts = [
                (head + context + task.delimiter + row["continuation"]).encode()
                for context in row["context_options"]
            ]
            shared = 0
            while len({text[-1 - shared] for text in texts}) == 1:
                shared += 1
            starts = [len(text) - shared for text in texts]
        means = []
        for text, start in zip(texts, starts, strict=True):
            own = [float(losses[text[i - 1], text[i]]) for i in range(start, len(text))]
            means.append(sum(own) / len(own))
        answers.append(means.index(min(means)) == row["gold"])
    return answers


@pytest.mark.parametrize("limit", [-1, 0, 7])
@pytest.mark.parametrize("seed", [1, 2])
def test_equals_the_slow_way(tmp_path: Path, seed: int, limit: int) -> None:
    """All three types, whole and shortened."""
    made = draft(seed=seed)
    bundle = read_bundle(made.write(tmp_path / "bundle"))
    model = guesser(seed)
    # A model of bytes that guesses is never right in words, unless it is taught some of what follows a blank.
    model.table[ord(" ")] = -9
    model.table[ord(" "), ord("a")] = 9
    right = 0
    for task in bundle.tasks:
        expected = slowly(model, task, made.data[task.path.name], limit)
        score = evaluate_task(subject(model), task, limit)
        assert (score.right, score.asked) == (sum(expected), len(expected))
        right += score.right
    assert right > 0


@pytest.mark.parametrize("batch_size", [1, 2, 7, 500])
def test_batches_change_nothing(bundle: Bundle, batch_size: int) -> None:
    """Padding is not seen, and no batch is larger than allowed."""
    model = guesser()
    scores = evaluate(subject(model, batch_size=batch_size), bundle)
    assert scores == evaluate(subject(guesser(), batch_size=8), bundle)
    assert max(shape[0] for shape in model.shapes) <= batch_size


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_change_nothing(bundle: Bundle, size: int) -> None:
    """Each answers its share, and all hear the same sum; 23 questions divide by neither."""
    meeting = Meeting(size)
    found: dict[int, Any] = {}

    def work(rank: int) -> None:
        found[rank] = evaluate(subject(guesser(), world=Member(rank, meeting)), bundle)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = evaluate(subject(guesser()), bundle)
    assert [found[rank] for rank in range(size)] == [alone] * size


def test_a_small_share_for_many_ranks(bundle: Bundle) -> None:
    """A rank with no question at all still takes part."""
    task = bundle.tasks[0]
    last = evaluate_task(subject(guesser(), world=Alone(rank=4, size=5)), task, 3)
    assert (last.right, last.asked) == (0, 3)


def test_long_prompts_lose_their_beginning(bundle: Bundle) -> None:
    """No row is longer than the sequence; a bigram needs no more than the end to answer the same."""
    model = guesser()
    scores = evaluate(subject(model, sequence_len=24), bundle)
    assert max(shape[1] for shape in model.shapes) < 24
    assert scores == evaluate(subject(guesser()), bundle)


# --- prompts ------------------------------------------------------------------------------

CHOICE = Example(("Q?", "Q?"), ("yes", "no"), 1)
SHOWN = [Example(("P?", "P?"), ("oui", "non"), 0)]


def task_of(kind: str, delimiter: str = " ") -> Task:
    return Task(label="t", kind=kind, path=Path("t"), shots=1, delimiter=delimiter, baseline=0)


def test_prompts_of_choices() -> None:
    """Solved examples end with an empty line; each option is a text of its own."""
    assert prompts(CHOICE, SHOWN, task_of("multiple_choice", "\nA: ")) == [
        "P?\nA: oui\n\nQ?\nA: yes",
        "P?\nA: oui\n\nQ?\nA: no",
    ]


def test_prompts_of_a_schema() -> None:
    """Contexts differ, the end is shared; of a solved example the right context is shown."""
    solved = Example(("he", "she"), ("ran", "ran"), 1)
    asked = Example(("cat", "dog"), ("sat", "sat"), 0)
    assert prompts(asked, [solved], task_of("schema")) == [
        "she ran\n\ncat sat",
        "she ran\n\ndog sat",
    ]


def test_prompts_of_one_option() -> None:
    """First without the continuation and without the blank before it, then whole."""
    asked = Example(("The capital of France is",), ("Paris",), 0)
    assert prompts(asked, [], task_of("language_modeling")) == [
        "The capital of France is",
        "The capital of France is Paris",
    ]


@pytest.mark.parametrize(("count", "shots"), [(11, 10), (40, 3), (600, 10)])
def test_shown_examples_are_the_published_draw(count: int, shots: int) -> None:
    """As if all other questions had been listed and sampled with seed 1234 + index."""
    pool = [Example((str(i),), ("",), 0) for i in range(count)]
    for index in (0, 5, count - 1):
        others = [example for i, example in enumerate(pool) if i != index]
        assert drawn(pool, index, shots) == random.Random(1234 + index).sample(others, shots)


@pytest.mark.parametrize(
    ("kind", "rows", "starts"),
    [
        ("multiple_choice", ["qyes", "qno"], [2, 2]),
        ("multiple_choice", ["qno", "qno!"], [3, 3]),  # one option begins the other
        ("multiple_choice", ["qno", "qno"], [3, 3]),  # no choice at all
        ("multiple_choice", ["yes", "no"], [1, 1]),  # nothing shared but BOS
        ("schema", ["catsat", "thedogsat"], [4, 7]),
        ("schema", ["cat", "dog"], [3, 3]),  # nothing shared
        ("schema", ["sat", "sat"], [1, 1]),
        ("language_modeling", ["the", "theend"], [4]),
        ("language_modeling", ["tha", "theend"], [3]),  # tokens joined across the border
        ("language_modeling", ["theend", "theend"], [6]),
    ],
)
def test_own_tokens(kind: str, rows: list[str], starts: list[int]) -> None:
    """Where the tokens that decide begin, after BOS, a letter being a token; there is always one."""
    found = own_tokens(kind, [np.array([BOS, *row.encode()]) for row in rows])
    assert [row.start for row in found] == starts
    assert all(1 <= row.start < len(row.ids) for row in found)


# --- bundles ------------------------------------------------------------------------------


def test_reads_what_it_names(tmp_path: Path) -> None:
    """Shots, delimiter and baseline come from the bundle."""
    bundle = read_bundle(draft().write(tmp_path / "bundle"))
    choice, schema, _ = bundle.tasks
    assert (choice.shots, choice.delimiter, choice.baseline) == (3, "\nAnswer: ", 0.4)
    assert (schema.shots, schema.delimiter, schema.baseline) == (0, " ", 0.5)


def test_only_the_whole_is_called_core() -> None:
    """22 tasks, no more and no less."""
    task = task_of("schema")
    whole = tuple(replace(task, label=label) for label in PUBLISHED)
    assert len(whole) == 22
    assert Bundle(whole).score_name == "CORE"
    assert Bundle(whole[:18]).score_name == "CORE (18 of 22 tasks)"
    assert Bundle(whole[:18]).missing == PUBLISHED[18:]
    assert Bundle((*whole[:2], task)).score_name == "CORE (2 of 22 tasks and 1 others)"


def test_tasks_without_data_are_missing(tmp_path: Path) -> None:
    """A partial bundle is used as far as it goes, and says what it lacks."""
    folder = draft().write(tmp_path / "bundle")
    (folder / "eval_data" / "winograd.jsonl").unlink()
    bundle = read_bundle(folder)
    assert [task.label for task in bundle.tasks] == ["copa", "jeopardy"]
    assert "winograd" in bundle.missing
    assert evaluate(subject(guesser()), bundle, 2).name == "CORE (2 of 22 tasks)"


def test_fewer_questions_than_shown_examples(bundle: Bundle) -> None:
    """One question of a task that shows three: the examples come from what follows it."""
    score = evaluate_task(subject(guesser()), bundle.tasks[0], 1)
    assert score.asked == 1


def spoiled(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_text(change(path.read_text()))

    return spoil


def third_line(line: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        lines = text.splitlines()
        lines[2] = line
        return "\n".join(lines)

    return change


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "core.yaml").unlink(), r"core\.yaml is not there.*--bundle"),
        (lambda folder: (folder / "eval_meta_data.csv").unlink(), r"data\.csv is not there"),
        (spoiled("core.yaml", lambda text: "a: [\nb: {"), r"core\.yaml is damaged in line 2"),
        (spoiled("core.yaml", lambda text: "- 1"), r"core\.yaml has no list 'icl_tasks'"),
        (spoiled("core.yaml", lambda text: "\x00"), r"core\.yaml is damaged in line 1"),
        (
            spoiled("core.yaml", lambda text: text.replace("schema", "essay")),
            r"core\.yaml is damaged at task 2: unknown type 'essay'",
        ),
        (
            spoiled("core.yaml", lambda text: text.replace("label: winograd", "name: winograd")),
            r"core\.yaml is damaged at task 2: no 'label'",
        ),
        (
            spoiled("eval_meta_data.csv", lambda text: text.replace("winograd", "winogrande")),
            r"damaged at task 2: no 'winograd', or eval_meta_data\.csv has no row of that name",
        ),
        (
            spoiled("eval_meta_data.csv", lambda text: text.replace(",50", ",half")),
            r"eval_meta_data\.csv is damaged in line 3",
        ),
        (
            spoiled("eval_meta_data.csv", lambda text: text.replace(",50", ",100")),
            r"eval_meta_data\.csv is damaged in line 3: a baseline of 100",
        ),
        (spoiled("eval_meta_data.csv", lambda text: text.replace("baseline", "b")), "in line 2"),
    ],
)
def test_damaged_tables(tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    """One sentence with file and place."""
    folder = draft().write(tmp_path / "bundle")
    spoil(folder)
    with pytest.raises(NanochatError, match=words) as caught:
        read_bundle(folder)
    assert "\n" not in str(caught.value)


def test_no_data_at_all(tmp_path: Path) -> None:
    """Tables without a single task's rows."""
    made = draft()
    made.data = {}
    with pytest.raises(NanochatError, match="holds the data of no task"):
        read_bundle(made.write(tmp_path / "bundle"))


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        ("copa", '{"query": "q", "choices"', r"copa\.jsonl is damaged in line 3: no JSON"),
        ("copa", '{"query": "q", "gold": 0}', "line 3: no 'choices'"),
        (
            "copa",
            '{"query": "q", "choices": ["a", "b"], "gold": 2}',
            "line 3: 'gold' is 2, .* none of 2",
        ),
        ("copa", '{"query": "q", "choices": [], "gold": 0}', "line 3: 'gold' is 0, .* none of 0"),
        (
            "copa",
            '{"query": 1, "choices": ["a", "b"], "gold": 0}',
            "line 3: a text that is no string",
        ),
        ("copa", '["q"]', "in line 3"),
        ("winograd", '{"context_options": ["a", "b"], "gold": 0}', "line 3: no 'continuation'"),
        ("jeopardy", '{"context": null, "continuation": "a"}', "in line 3"),
    ],
)
def test_damaged_rows(tmp_path: Path, name: str, line: str, words: str) -> None:
    """One sentence with file and line."""
    folder = draft().write(tmp_path / "bundle")
    spoiled(f"eval_data/{name}.jsonl", third_line(line))(folder)
    task = next(task for task in read_bundle(folder).tasks if task.label == name)
    with pytest.raises(NanochatError, match=words) as caught:
        evaluate_task(subject(guesser()), task)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """A file that was damaged on its way."""
    folder = draft().write(tmp_path / "bundle")
    (folder / "eval_data" / "copa.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(NanochatError, match=r"copa\.jsonl cannot be read"):
        read_examples(read_bundle(folder).tasks[0])


def test_too_few_rows(tmp_path: Path) -> None:
    """A file that was cut at the end of a line."""
    folder = draft(count=3).write(tmp_path / "bundle")
    with pytest.raises(NanochatError, match=r"has 3 rows, but copa shows 3 before each question"):
        read_examples(read_bundle(folder).tasks[0])


def test_a_model_that_is_broken_scores_without_a_crash(bundle: Bundle) -> None:
    """Losses that are no numbers are a bad model, not a reason to stop."""
    scores = evaluate(subject(Bigram(torch.full((257, 257), math.nan))), bundle)
    assert len(scores.tasks) == 3

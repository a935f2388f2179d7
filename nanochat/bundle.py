"""Reads the published bundle of CORE tasks: core.yaml, eval_meta_data.csv and eval_data/*.jsonl.

python -m nanochat.bundle                fetches it (162 MB), unless it is there
python -m nanochat.bundle --check        only says whether it is whole

The tasks were chosen by Li et al., DataComp-LM (arXiv:2406.11794); the files come from MosaicML's gauntlet.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat import flags
from nanochat.errors import NanochatError
from nanochat.files import base_dir
from nanochat.visible import visible

URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
"""Where it is published."""
URL_VARIABLE = "NANOCHAT_EVAL_BUNDLE_URL"
"""Names another place."""
COMMAND = "python -m nanochat.bundle"
AGAIN = f"fetch it again with '{COMMAND}'"

PUBLISHED = tuple(
    """hellaswag_zeroshot jeopardy bigbench_qa_wikidata arc_easy arc_challenge copa commonsense_qa piqa
    openbook_qa lambada_openai hellaswag winograd winogrande bigbench_dyck_languages agi_eval_lsat_ar
    bigbench_cs_algorithms bigbench_operators bigbench_repeat_copy_logic squad coqa boolq
    bigbench_language_identification""".split()
)
"""The tasks whose mean is called CORE."""

DEFAULT_DELIMITER = " "
"""Between context and continuation, where core.yaml names no other."""

YAML_NAME, CSV_NAME, DATA_NAME = "core.yaml", "eval_meta_data.csv", "eval_data"


@dataclass(frozen=True)
class Example:
    """A row of any task: a question with its options; an option is a context and how it goes on."""

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    gold: int
    """Which option is right; 0 where there is only one."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of the bundle."""

    label: str
    kind: str
    """A key of `KINDS`."""
    path: Path
    shots: int
    """Solved examples before the question."""
    delimiter: str
    baseline: float
    """The accuracy of guessing, 0 to 1."""


@dataclass(frozen=True)
class Bundle:
    """The tasks whose data are there, in the order of core.yaml."""

    tasks: tuple[Task, ...]
    absent: tuple[str, ...] = ()
    """Tasks of core.yaml whose data are not there."""

    @property
    def missing(self) -> tuple[str, ...]:
        """The published tasks that are not there."""
        present = {task.label for task in self.tasks}
        return tuple(label for label in PUBLISHED if label not in present)

    @property
    def summary(self) -> str:
        """How many tasks there are, and of which score they are the tasks."""
        return f"{len(self.tasks)} tasks for {self.score_name}"

    @property
    def score_name(self) -> str:
        """What the mean over these tasks may be called: CORE only if they are all there are."""
        own = sum(task.label not in PUBLISHED for task in self.tasks)
        if not own and not self.missing:
            return "CORE"
        known = f"CORE ({len(self.tasks) - own} of {len(PUBLISHED)} tasks"
        return f"{known} and {own} others)" if own else f"{known})"


def default_folder() -> Path:
    """Where the bundle lives below the base folder."""
    return base_dir() / "eval_bundle"


def read_bundle(folder: Path) -> Bundle:
    """The tasks of a bundle; those whose data file is missing are left out, and `Bundle.missing` names them.

    Raises:
        NanochatError: core.yaml or eval_meta_data.csv is missing or damaged, or there is no data at all.
    """
    baselines = _read_baselines(folder / CSV_NAME)
    tasks = _read_tasks(folder / YAML_NAME, folder / DATA_NAME, baselines)
    present = tuple(task for task in tasks if task.path.is_file())
    absent = tuple(task.label for task in tasks if not task.path.is_file())
    if not present:
        raise NanochatError(
            f"{folder / DATA_NAME} holds the data of no task of {YAML_NAME}; {AGAIN}"
        )
    return Bundle(present, absent)


def read_examples(task: Task) -> list[Example]:
    """The rows of a task, in the order of its file.

    Raises:
        NanochatError: a row is damaged; says which line.
    """
    parse = KINDS[task.kind]
    examples = []
    for number, line in enumerate(_text(task.path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            examples.append(parse(json.loads(line)))
        except json.JSONDecodeError as error:
            raise _damaged(task.path, number, f"no JSON ({error.msg})") from None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise _damaged(task.path, number, reason) from None
    if len(examples) <= task.shots:
        raise NanochatError(
            f"{task.path} has {len(examples)} rows, but {task.label} shows {task.shots} before each "
            f"question; {AGAIN}"
        )
    return examples


def _choice(row: Mapping[str, Any]) -> Example:
    """One context, several ways to go on."""
    options = tuple(str(choice) for choice in row["choices"])
    return _checked(Example((row["query"],) * len(options), options, row["gold"]))


def _schema(row: Mapping[str, Any]) -> Example:
    """Several contexts, one way to go on."""
    contexts = tuple(row["context_options"])
    return _checked(Example(contexts, (row["continuation"],) * len(contexts), row["gold"]))


def _modeling(row: Mapping[str, Any]) -> Example:
    """One context, one way to go on. Some contexts are stored with blanks around them."""
    return _checked(Example((row["context"].strip(),), (row["continuation"],), 0))


def _checked(example: Example) -> Example:
    if not all(isinstance(text, str) for text in (*example.contexts, *example.continuations)):
        raise ValueError("a text that is no string")
    if example.gold not in range(len(example.contexts)):
        raise ValueError(
            f"'gold' is {example.gold!r}, which is none of {len(example.contexts)} options"
        )
    return example


KINDS: Mapping[str, Callable[[Mapping[str, Any]], Example]] = {
    "multiple_choice": _choice,
    "schema": _schema,
    "language_modeling": _modeling,
}
"""The types of tasks, and how a row of each is read."""


def _read_baselines(path: Path) -> dict[str, float]:
    """Task -> accuracy of guessing; the file has percentages."""
    baselines = {}
    reader = csv.DictReader(_text(path).splitlines())
    for row in reader:
        try:
            percent = float(row["Random baseline"])
            label = row["Eval Task"]
        except (KeyError, TypeError, ValueError):
            raise _damaged(
                path, reader.line_num, "no number as 'Random baseline' of an 'Eval Task'"
            ) from None
        if not 0 <= percent < 100:
            raise _damaged(
                path, reader.line_num, f"a baseline of {percent} is not between 0 and 100 percent"
            )
        baselines[label] = percent / 100
    return baselines


def _read_tasks(path: Path, data: Path, baselines: Mapping[str, float]) -> list[Task]:
    import yaml  # here, so that training without CORE needs no yaml

    try:
        document = yaml.safe_load(_text(path))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _damaged(path, line, str(error.problem)) from None
    except yaml.YAMLError as error:
        raise _damaged(path, 1, " ".join(str(error).split())) from None
    entries = document.get("icl_tasks") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise NanochatError(f"{path} has no list 'icl_tasks'; {AGAIN}")
    return [
        _task(path, number, entry, data, baselines) for number, entry in enumerate(entries, start=1)
    ]


def _task(path: Path, number: int, entry: Any, data: Path, baselines: Mapping[str, float]) -> Task:
    try:
        task = Task(
            label=str(entry["label"]),
            kind=str(entry["icl_task_type"]),
            path=data / entry["dataset_uri"],
            shots=int(entry["num_fewshot"][0]),
            delimiter=str(entry.get("continuation_delimiter", DEFAULT_DELIMITER)),
            baseline=baselines[str(entry["label"])],
        )
        if task.kind not in KINDS:
            raise ValueError(f"unknown type '{task.kind}'")
    except KeyError as error:
        reason = f"no {error}, or {CSV_NAME} has no row of that name"
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        reason = str(error)
    else:
        return task
    raise NanochatError(f"{path} is damaged at task {number}: {reason}; {AGAIN}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NanochatError(
            f"{path} is not there; fetch the evaluation bundle with '{COMMAND}', or name its folder with --bundle"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise NanochatError(f"{path} cannot be read: {error}; {AGAIN}") from error


def _damaged(path: Path, line: int, reason: str) -> NanochatError:
    return NanochatError(f"{path} is damaged in line {line}: {reason}; {AGAIN}")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = flags.Parser("Fetch the evaluation bundle, which the CORE metric is measured on.")
    parser.add_argument(
        "--url", default=os.environ.get(URL_VARIABLE) or URL,
        help=f"where its zip file is: an address, or a file; ${URL_VARIABLE} does the same",
    )  # fmt: skip
    parser.add_argument(
        "--check", action="store_true", help="fetch nothing, say whether the bundle is whole"
    )
    args = parser.parse_args(argv)
    from nanochat.bundle_fetch import (
        fetch,
        require_whole,
    )  # here, because it reads what is defined above

    if args.check:
        _say(f"{default_folder()} is whole: {require_whole(default_folder()).summary}")
    else:
        fetch(args.url, default_folder(), say=_say)


def _say(line: str) -> None:
    sys.stdout.write(f"{visible(line)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    flags.run(main)

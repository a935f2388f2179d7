"""Talk to a model: python -m scripts.chat_cli -p "The capital of France is"

A base model continues text; later stages answer. Without --prompt it reads lines from a terminal, or one whole prompt
from a pipe. The model's words go to standard output, everything else to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Protocol

from nanochat import device as devices  # first: it sets what torch reads when it is imported

import torch  # isort: skip

from nanochat.checkpoint import STAGES, load_model, stage_folder
from nanochat.conversation import render_for_completion
from nanochat.engine import Engine, TextStream
from nanochat.errors import NanochatError
from nanochat.flags import Parser, at_least, folder_name, positive, run
from nanochat.tokenizer import Tokenizer
from nanochat.visible import show_warnings, visible

WORDS = "/clear forgets the conversation, /quit or Ctrl-D leaves, Ctrl-C stops an answer"


def main(argv: Sequence[str] | None = None) -> None:
    """Load a model and talk as the flags say."""
    parser = Parser("Talk to a model, or let a base model continue a text.")
    parser.add_argument(
        "-i", "--source", choices=list(STAGES), default=None,
        help="stage of training; default: the latest that there is",
    )  # fmt: skip
    parser.add_argument(
        "-g", "--model-tag", type=folder_name, default=None, help="default: that of largest depth"
    )
    parser.add_argument("-s", "--step", type=at_least(0), default=None, help="default: the last")
    parser.add_argument("-p", "--prompt", default=None, help="answer this and leave")
    parser.add_argument("-t", "--temperature", type=float, default=0.6, help="0: the likeliest")
    parser.add_argument("-k", "--top-k", type=at_least(0), default=50, help="0: among all tokens")
    parser.add_argument("-m", "--max-tokens", type=positive, default=256, help="of an answer")
    parser.add_argument("--seed", type=int, default=42, help="of the choices among tokens")
    parser.add_argument("--device-type", default=devices.AUTO, help=" | ".join(devices.KINDS))
    parser.add_argument(
        "--dtype", default=devices.AUTO, help=" | ".join((devices.AUTO, *devices.DTYPES))
    )
    args = parser.parse_args(argv)
    show_warnings()

    prompt = args.prompt
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().removesuffix("\n")
    device = devices.find(args.device_type)
    stage = args.source or latest_stage()
    model, tokenizer, checkpoint = load_model(
        stage, device, args.model_tag, args.step, dtype=args.dtype
    )
    # What is cast at each use in training can be cast once here: the same numbers, less to read per token.
    model.to(dtype=model.compute_dtype)
    dtype = str(model.compute_dtype).removeprefix("torch.")
    for line in (*(f"note: {note}" for note in device.notes),
                 f"{checkpoint}, on {device.kind} ({device.name}), {dtype}"):  # fmt: skip
        _tell(line)
    speaker = Speaker(
        Engine(model, tokenizer),
        tokenizer,
        args.temperature,
        args.top_k,
        args.max_tokens,
        args.seed,
    )
    talk = Text(tokenizer) if stage == "base" else Dialogue(tokenizer)
    try:
        if prompt is None:
            converse(talk, speaker)
        else:
            speaker.say(talk, prompt)
    except torch.OutOfMemoryError as error:
        raise NanochatError(
            f"{device.name} ran out of memory; choose a smaller --max-tokens or --model-tag"
        ) from error


def latest_stage() -> str:
    """The last stage of training that has a checkpoint; base if none has."""
    there = [stage for stage in STAGES if any(stage_folder(stage).glob("*/meta_*.json"))]
    return there[-1] if there else "base"


# --- what is talked about -----------------------------------------------------------------------


class Talk(Protocol):
    """Makes prompts out of what the user types and of what was said before."""

    def prompt(self, line: str) -> tuple[list[int], str]:
        """The tokens to go on from, and what is shown before the model's own words."""

    def heard(self, answer: str) -> None:
        """Remember the model's words."""

    def clear(self) -> None:
        """Forget everything."""


class Text:
    """Each line is the beginning of a document, which a base model goes on with."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def prompt(self, line: str) -> tuple[list[int], str]:
        return [self._tokenizer.bos, *self._tokenizer.encode(line)], line

    def heard(self, answer: str) -> None:
        """A new line begins a new document."""

    def clear(self) -> None:
        """There is nothing to forget."""


class Dialogue:
    """User and assistant take turns; the model reads all of it each time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._messages: list[dict[str, str]] = []

    def prompt(self, line: str) -> tuple[list[int], str]:
        self._messages.append({"role": "user", "content": line})
        return render_for_completion({"messages": self._messages}, self._tokenizer), ""

    def heard(self, answer: str) -> None:
        self._messages.append({"role": "assistant", "content": answer})

    def clear(self) -> None:
        self._messages.clear()


# --- talking ------------------------------------------------------------------------------------


class Speaker:
    """Says the model's words as they come."""

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, temperature: float, top_k: int, max_tokens: int,
        seed: int,
    ) -> None:  # fmt: skip
        self._engine, self._tokenizer, self._seed = engine, tokenizer, seed
        self._temperature, self._top_k, self._max_tokens = temperature, top_k, max_tokens

    def say(self, talk: Talk, line: str, *, interruptible: bool = False) -> None:
        """Answer a line on standard output; Ctrl-C ends the answer, or else everything."""
        ids, shown = talk.prompt(line)
        stream, answer = TextStream(self._tokenizer), ""
        try:
            _show(shown)
            for column in self._engine.generate(
                ids, temperature=self._temperature, top_k=self._top_k, max_tokens=self._max_tokens,
                seed=self._seed,
            ):  # fmt: skip
                if not column.done[0]:
                    piece = stream.push(column.tokens[0])
                    _show(piece)
                    answer += piece
        except KeyboardInterrupt:
            if not interruptible:
                raise
        rest = stream.end()
        _show(f"{rest}\n")
        talk.heard(answer + rest)
        # The same line again may be answered otherwise.
        self._seed += 1


def converse(talk: Talk, speaker: Speaker) -> None:
    """Read lines from the terminal and answer each, until the user leaves."""
    try:
        import readline  # noqa: F401  (its import gives input() a history and arrow keys)
    except ImportError:
        pass
    _tell(WORDS)
    while True:
        try:
            line = input("> ").strip()
        except KeyboardInterrupt:
            _tell("")
            continue
        except EOFError:
            _tell("")
            return
        if line == "/quit":
            return
        if line == "/clear":
            talk.clear()
        elif line.startswith("/"):
            _tell(WORDS)
        elif line:
            speaker.say(talk, line, interruptible=True)


def _show(text: str) -> None:
    """The model's words; a terminal that lacks a character shows a question mark."""
    encoding = sys.stdout.encoding or "utf-8"
    print(visible(text).encode(encoding, "replace").decode(encoding), end="", flush=True)


def _tell(line: str) -> None:
    print(visible(line), file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)

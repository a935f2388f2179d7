"""How errors reach a person, as one sentence, and a program, as one object."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import click

from doctor.errors import DoctorError
from doctor.text import invocation
from doctor.text.visible import json_text

SCHEMA = 1
INTERRUPTED = 130


@dataclass(frozen=True)
class Failure:
    """What went wrong.

    Attributes:
        kind: `usage`, `failed`, `interrupted` or `unexpected`.
        status: of the process.
    """

    message: str
    kind: str
    status: int

    def tell(self, as_json: bool) -> None:
        """The sentence goes to stderr; with --json, the object goes to stdout."""
        if as_json:
            error = {"message": self.message, "kind": self.kind, "status": self.status}
            _echo(json_text({"schema": SCHEMA, "event": "failed", "error": error}), err=False)
        _echo(self.message if self.kind == "interrupted" else f"nanochat-doctor: {self.message}")


def failure(error: BaseException) -> Failure:
    """What an exception means."""
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return Failure("Interrupted.", "interrupted", INTERRUPTED)
    if isinstance(error, click.UsageError):
        return Failure(_sentence(error), "usage", error.exit_code)
    if isinstance(error, click.ClickException):
        return Failure(error.format_message(), "failed", error.exit_code)
    if isinstance(error, DoctorError):
        kind = "usage" if error.exit_code == 2 else "failed"
        return Failure(str(error), kind, error.exit_code)
    if isinstance(error, OSError):
        return Failure(f"It could not go on: {error.strerror or error}.", "failed", 1)
    text = (
        f"It failed unexpectedly ({type(error).__name__}: {error}); run it again with --debug and report "
        "what it prints."
    )
    return Failure(text, "unexpected", 1)


def wants_json(words: list[str]) -> bool:
    """Whether a command line asks for JSON; asked of its words, since it may be no valid one."""
    own = words[: words.index("--")] if "--" in words else words
    return "--json" in own and "selftest" not in own[:2]


def _sentence(error: click.UsageError) -> str:
    """What was wrong with the command line, and where all that is right is told."""
    path = (error.ctx.command_path if error.ctx else "").split()[1:]
    text = error.format_message()
    if isinstance(error, click.NoSuchOption):
        near = " or ".join(sorted(error.possibilities or ()))
        text = f"There is no option {error.option_name}"
        text += f"; did you mean {near}?" if near else "."
    elif text.startswith("Got unexpected extra argument"):
        words = text.partition("(")[2].rstrip(").")
        text = f"{path[0] if path else 'This'} takes no argument {words}."
    text = text if text.endswith((".", "?")) else f"{text}."
    return f"{text} See {invocation.command(*path, '-h')}"


def _echo(text: str, err: bool = True) -> None:
    with contextlib.suppress(OSError, ValueError):
        click.echo(text, err=err)

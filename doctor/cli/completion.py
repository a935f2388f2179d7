"""Completion by the shell: the script that switches it on, and the values that options take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from doctor.errors import DoctorError

NAME = "nanochat-doctor"
VARIABLE = "_NANOCHAT_DOCTOR_COMPLETE"
SHELLS = ("bash", "zsh", "fish")

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def among(values: Callable[[], Iterable[str]]) -> Completer:
    """Completes a word out of some values; of a list with commas, its last."""

    def complete(_ctx: click.Context, _param: click.Parameter, typed: str) -> list[CompletionItem]:
        before, comma, last = typed.rpartition(",")
        try:
            known = [value for value in values() if value.startswith(last)]
        except DoctorError:  # a damaged table: no reason to write into somebody's command line
            return []
        return [CompletionItem(before + comma + value) for value in known]

    return complete


def files(_ctx: click.Context, _param: click.Parameter, typed: str) -> list[CompletionItem]:
    """Leaves the word to the shell, which knows files."""
    return [CompletionItem(typed, type="file")]


def areas() -> Iterable[str]:
    """Of `--only`."""
    from doctor.facts import AREAS

    return AREAS


def profiles() -> Iterable[str]:
    """Of `--profile`."""
    from doctor.knowledge.tables import Tables

    return [str(row["name"]) for row in Tables().rows("profiles", "profile")]


def stages() -> Iterable[str]:
    """Of `--stage`."""
    from doctor.launch.render import STAGES

    return [stage.name for stage in STAGES]


def targets() -> Iterable[str]:
    """Of `--target`."""
    from doctor.launch.render import TARGETS

    return list(TARGETS)


def script(cli: click.Command, shell: str) -> str:
    """What switches completion on when a shell reads it; it serves `./nanochat-doctor` and other paths, too."""
    found = get_completion_class(shell)
    assert found is not None, shell
    maker: Any = found(cli, {}, NAME, VARIABLE)
    return str(maker.source_template % maker.source_vars())


def how_to(shell: str, command: str) -> str:
    """The line of a shell's start file that reads the script at each start."""
    if shell == "fish":
        return f"{command} completion fish | source"
    return f'eval "$({command} completion {shell})"'

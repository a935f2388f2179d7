"""What a command that takes long says while it works: sentences for people, or one JSON object a line."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import IO, Any

import click

from doctor.work.events import Reporter


class Telling:
    """Where a command's words go; with `as_json` they are events on stdout, as those of build-torch."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.reporter = Reporter(out=sys.stdout) if as_json else None

    @property
    def say(self) -> Callable[[str], None]:
        """Hears a line at each step."""
        return self._event if self.reporter else click.echo

    @property
    def out(self) -> IO[str]:
        """A stream of lines."""
        lines: Any = _Lines(self._event)
        return lines if self.reporter else sys.stdout

    def event(self, name: str, **fields: Any) -> None:
        """What a program is told and a person sees otherwise."""
        if self.reporter:
            self.reporter.event(name, **fields)

    def _event(self, text: str) -> None:
        assert self.reporter is not None
        if text.strip():
            self.reporter.event("progress", text.strip())


class _Lines(io.TextIOBase):
    """Makes lines that are printed to it events."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._begun = ""

    def isatty(self) -> bool:
        """No line of it may be rewritten."""
        return False

    def write(self, text: str) -> int:
        """Take a piece of text; lines that are whole go on."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._take(line)
        return len(text)

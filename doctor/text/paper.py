"""What is printed for people: fitted to the width of the terminal, coloured where there is one, plain elsewhere."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import click

from doctor.text.visible import visible

WIDTH = 80
"""Columns where there is no terminal."""

WIDEST = 100
"""Prose is not set wider: the eye loses the line."""

NARROWEST = 40

SIGNS = "✗✓→×…"
PLAIN = str.maketrans({"✗": "x", "✓": "+", "·": ".", "→": "->", "×": "x", "…": "...", "▶": ">"})
"""For terminals whose encoding has no such signs."""


def columns(text: str) -> int:
    """Columns that a text takes on a terminal: two for wide signs, none for those that join others."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in text)
    none = sum(
        unicodedata.combining(sign) != 0 or unicodedata.category(sign) in ("Cf", "Mn", "Me")
        for sign in text
    )
    return len(text) + wide - none


def pad(text: str, width: int, *, right: bool = False) -> str:
    """A text filled up with blanks to so many columns."""
    blanks = " " * max(0, width - columns(text))
    return blanks + text if right else text + blanks


def wrap(text: str, width: int, *, first: str = "", rest: str = "") -> list[str]:
    """Lines of a text, broken at blanks; a word that is longer than a line stays whole.

    Args:
        first: what the first line begins with.
        rest: what the others begin with.
    """
    lines, line, empty = [], first, True
    for word in text.split():
        if not empty and columns(line) + 1 + columns(word) > width:
            lines.append(line)
            line, empty = rest, True
        line += word if empty else f" {word}"
        empty = False
    return [*lines, line.rstrip()]


@dataclass
class Paper:
    """Where a page is printed.

    Attributes:
        width: columns of prose.
        colour: whether there is a terminal that shows it and nobody has asked to do without.
        plain: whether the encoding lacks our signs.
    """

    out: IO[str]
    width: int
    colour: bool
    plain: bool

    @classmethod
    def of(cls, out: IO[str]) -> Paper:
        """The paper that a stream is."""
        terminal = out.isatty()
        dull = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        width = _terminal_width(out) if terminal else WIDTH
        return cls(
            out, max(NARROWEST, min(width, WIDEST)), terminal and not dull, not _knows(SIGNS, out)
        )

    def line(self, text: str = "") -> None:
        """Print a line as it is."""
        click.echo(text.translate(PLAIN) if self.plain else text, file=self.out, color=self.colour)

    def lines(self, lines: Sequence[str]) -> None:
        """Print lines as they are."""
        for text in lines:
            self.line(text)

    def prose(self, text: str, *, first: str = "", rest: str | None = None, **style: Any) -> None:
        """Print a text over as many lines as it needs; arguments as those of `fold`."""
        self.lines(self.fold(text, first=first, rest=rest, **style))

    def fold(
        self,
        text: str,
        *,
        first: str = "",
        rest: str | None = None,
        width: int | None = None,
        **style: Any,
    ) -> list[str]:
        """A text as lines.

        Args:
            first: what the first line begins with; it may be coloured.
            rest: what the others begin with; default: as many blanks.
            width: columns; default: the paper's.
            style: of the text, for `click.style`.
        """
        start = " " * columns(click.unstyle(first))
        after = start if rest is None else rest
        rows = wrap(visible(text, lines=True), width or self.width, first=start, rest=after)
        heads, starts = [first] + [after] * len(rows), [start] + [after] * len(rows)
        bodies = [row[len(begin) :] for row, begin in zip(rows, starts, strict=False)]
        styled = [self.style(body, **style) if style else body for body in bodies]
        return [head + body for head, body in zip(heads, styled, strict=False)]

    def style(self, text: str, **style: Any) -> str:
        """A text in a style of `click.style`, where there are colours."""
        return click.style(text, **style) if self.colour else text

    def bold(self, text: str) -> str:
        """A text that stands out."""
        return self.style(text, bold=True)

    def yellow(self, text: str) -> str:
        """A warning."""
        return self.style(text, fg="yellow")


def _terminal_width(out: IO[str]) -> int:
    """Columns of a terminal; some (serial lines, bare ptys) say 0."""
    try:
        return os.get_terminal_size(out.fileno()).columns or WIDTH
    except (OSError, ValueError):
        return WIDTH


def _knows(signs: str, out: IO[str]) -> bool:
    try:
        signs.encode(getattr(out, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True

"""What is printed fits the terminal: widths, wide signs, colours, encodings."""

from __future__ import annotations

import io
import os
import pty
import struct
import termios
from collections.abc import Iterator
from fcntl import ioctl

import pytest

from doctor.text.paper import Paper, columns, pad, wrap


@pytest.mark.parametrize(
    ("text", "width"),
    [("plain", 5), ("模型", 4), ("/数据/a", 7), ("é", 1), ("e\u0301", 1), ("", 0), ("✗", 1)],
)
def test_columns(text: str, width: int) -> None:
    assert columns(text) == width
    assert columns(pad(text, 12)) == columns(pad(text, 12, right=True)) == 12


def test_wrapping_counts_columns_and_breaks_no_word() -> None:
    text = "数据 在 /一个/很长的/中文/路径 里 and goes on in English"
    for width in (20, 30, 44):
        lines = wrap(text, width, first="  ", rest="    ")
        assert " ".join(" ".join(lines).split()) == text
        assert all(columns(line) <= width or len(line.split()) == 1 for line in lines)
    assert wrap("", 10, first="x ") == ["x"]
    assert wrap("x" * 99, 10) == ["x" * 99]


def test_a_pipe_is_80_columns_of_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    paper = Paper.of(io.StringIO())
    assert (paper.width, paper.colour) == (80, False)


@pytest.fixture
def terminal() -> Iterator[tuple[int, io.TextIOWrapper]]:
    ours, theirs = pty.openpty()
    stream = os.fdopen(theirs, "w", encoding="utf-8")
    yield theirs, stream
    stream.close()
    os.close(ours)


@pytest.mark.parametrize(("real", "width"), [(60, 60), (80, 80), (140, 100), (20, 40), (0, 80)])
def test_the_width_of_a_terminal(
    terminal: tuple[int, io.TextIOWrapper], real: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    number, stream = terminal
    ioctl(number, termios.TIOCSWINSZ, struct.pack("HHHH", 24, real, 0, 0))
    paper = Paper.of(stream)
    assert (paper.width, paper.colour) == (width, True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Paper.of(stream).colour
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not Paper.of(stream).colour


def test_signs_that_an_encoding_lacks_are_replaced() -> None:
    data = io.BytesIO()
    out = io.TextIOWrapper(data, encoding="latin-1", errors="replace")
    paper = Paper.of(out)
    paper.prose("✓ 8 × GPU → done…")
    out.flush()
    assert paper.plain and data.getvalue() == b"+ 8 x GPU -> done...\n"


def test_a_head_in_colour_takes_no_room() -> None:
    paper = Paper(io.StringIO(), 20, True, False)
    lines = paper.fold("one two three four five", first=f"{paper.bold('head')}: ", fg="red")
    assert len(lines) == 2 and lines[0].startswith("\x1b[1mhead")
    assert lines[1].startswith("      \x1b[31m")

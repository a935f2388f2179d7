"""Command lines: two spellings of a flag, whole numbers, and how a program ends."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from nanochat.errors import NanochatError, WrongUsage
from nanochat.flags import Parser, at_least, dashed, folder_name, positive, rate, run, share

REPO = Path(__file__).resolve().parents[2]


def parser() -> Parser:
    made = Parser("A test.")
    made.add_argument("--max-seq-len", type=positive, default=8, help="tokens")
    made.add_argument("-p", "--prompt", default="")
    return made


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (rate, ["0", "0.02", "1e3"], ["nan", "inf", "-0.1", "x", ""]),
        (share, ["0", "0.65", "1"], ["nan", "5", "-1", "1.01"]),
        (
            folder_name,
            ["d4", "my run", "größer", "a..b"],
            ["", ".", "..", "../x", "../../x", "/tmp/x", "a/b", "a\\b", ".hidden", "a\nb", "c:x"],
        ),
    ],
)
def test_what_a_flag_takes(parse: Callable[[str], object], good: list[str], bad: list[str]) -> None:
    for text in good:
        parse(text)
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError):
            parse(text)


@pytest.mark.parametrize(
    "words",
    [["--max-seq-len", "5"], ["--max_seq_len", "5"], ["--max_seq_len=5"], ["--max-seq_len=5"]],
)
def test_dashes_and_underscores_are_one(words: list[str]) -> None:
    assert parser().parse_args(words).max_seq_len == 5


def test_values_keep_their_underscores() -> None:
    assert dashed("--model_tag=my_model") == "--model-tag=my_model"
    assert parser().parse_args(["-p", "a_b c"]).prompt == "a_b c"
    assert dashed("-p_x") == "-p_x"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--max-seq-len", "0"], "0 is below 1"),
        (["--max-seq-len", "5.5"], "'5.5' is no whole number"),
        (["--max-seq-len"], "expected one argument"),
        (
            ["--max-seq", "5"],
            "--max-seq",
        ),  # no abbreviations: a new flag would change their meaning
        (["--depht", "5"], "--depht"),
        (["stray"], "stray"),
    ],
)
def test_what_cannot_be_parsed_is_one_line_and_status_2(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parser().parse_args(words)
    err = capsys.readouterr().err
    assert left.value.code == 2
    assert says in err and "--help" in err and err.count("\n") == 1


def test_help_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parser().parse_args(["--help"])
    assert left.value.code == 0
    assert "tokens (default: 8)" in capsys.readouterr().out


def test_whole_numbers_may_be_grouped() -> None:
    assert at_least(0)("524_288") == 524288
    assert at_least(-1)("-1") == -1
    with pytest.raises(argparse.ArgumentTypeError):
        at_least(0)("-1")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (NanochatError("no data here; fetch some"), 1, "error: no data here; fetch some\n"),
        (WrongUsage("depth is 0"), 2, "error: depth is 0\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            ZeroDivisionError("by zero"), 1,
            "error: unexpected ZeroDivisionError: by zero; run again with --debug for the traceback\n",
        ),
    ],
)  # fmt: skip
def test_each_ending_has_its_status_and_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: Sequence[str] | None) -> None:
        raise error

    with pytest.raises(SystemExit) as left:
        run(main, [])
    assert left.value.code == status
    assert capsys.readouterr().err == line


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: Sequence[str] | None) -> None:
        raise NanochatError("no data here")

    with pytest.raises(SystemExit):
        run(main, ["--debug"])
    err = capsys.readouterr().err
    assert "Traceback" in err and err.endswith("error: no data here\n")


def test_a_sound_end_is_status_0() -> None:
    heard: list[Sequence[str] | None] = []
    with pytest.raises(SystemExit) as left:
        run(heard.append, ["a"])
    assert left.value.code == 0 and heard == [["a"]]


def test_flags_need_no_torch() -> None:
    """`--help` must not take seconds."""
    code = "import sys, nanochat.flags, nanochat.config, nanochat.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, check=False).returncode == 0

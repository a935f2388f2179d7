"""What a foreign value may do to a terminal: nothing, through a pipe neither, and JSON stays JSON."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO, Doctor
from machines import CARDS, Machine, build, nvidia

from doctor.cli.pages import check
from doctor.launch.follow import last_lines
from doctor.launch.render import _quoted
from doctor.text.visible import Stream, control, json_text, visible
from doctor.work.live_line import LiveLine
from nanochat import visible as trainer

ATTACKS = {
    "clear the screen": "\x1b[2J",
    "colour": "\x1b[8m",
    "window title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://example.test\x1b\\",
    "clipboard": "\x1b]52;c;cm0gLXJmIH4=\x07",
    "device control": "\x1bP+q544e\x1b\\",
    "private message": "\x1b^x\x1b\\",
    "8-bit CSI": "\x9b2J",
    "8-bit OSC": "\x9d52;c;eA==\x9c",
    "8-bit DCS": "\x90+q\x9c",
    "next line": "\x85",
    "backspace": "safe\b\b\b\bevil",
    "carriage return": "bad\rgood",
    "bell": "\x07",
    "form feed": "\x0c",
    "vertical tab": "\x0b",
    "shift out": "\x0e",
    "delete": "\x7f",
    "zero": "\0",
    "override": "\u202egpj.exe",
    "isolates": "\u2066\u2067\u2068\u2069",
    "marks": "\u200e\u200f\u061c",
    "zero width": "\u200b\u2060\ufeff",
    "separators": "\u2028\u2029",
    "tags": "\U000e0001\U000e0041",
    "soft hyphen": "\xad",
    "interlinear": "\ufff9\ufffb",
    "surrogate": "\ud800",
    "byte": b"\x9b\xff".decode("utf-8", "surrogateescape"),
    "private use": "\ue000",
}
HARMLESS = [
    "NVIDIA H100 80GB",
    "C:\\Users\\me",
    "日本語　テスト",
    "naïve é",
    "✓ ✗ → …",
    "הללו",
    "\xa05 MB",
]

SAFE = set("\n\t")


def dangerous(text: str) -> str:
    """What of a text a terminal could obey or hide."""
    return "".join(c for c in text if c not in SAFE and c not in "\xa0　" and not c.isprintable())


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_become_visible(name: str) -> None:
    for shown in (visible(f"a{ATTACKS[name]}z"), trainer.visible(f"a{ATTACKS[name]}z")):
        assert not dangerous(shown)
        assert shown.startswith("a") or "safe" in shown
        assert "\\x" in shown or "\\u" in shown or "\\U" in shown or "\\r" in shown


@pytest.mark.parametrize("text", HARMLESS)
def test_ordinary_text_stays(text: str) -> None:
    assert visible(text) == trainer.visible(text) == text


def test_lines_are_kept_only_where_they_are_meant() -> None:
    assert visible("a\n\tb") == r"a\n\tb"
    assert visible("a\n\tb", lines=True) == "a\n\tb" == trainer.visible("a\n\tb")


def test_words_of_other_scripts_keep_their_joiners_in_what_a_model_says() -> None:
    assert trainer.visible("می\u200cخواهم 👩\u200d🔬") == "می\u200cخواهم 👩\u200d🔬"


def test_json_says_the_same_and_shows_nothing() -> None:
    data = {
        f"k{text}": [text] for name, text in ATTACKS.items() if name not in ("surrogate", "byte")
    }
    text = json_text(data, indent=1)
    assert json.loads(text) == data
    assert not dangerous(text)
    assert json.loads(json_text(["\ud800\udc9b"])) == ["??"]


class Screen(io.BytesIO):
    """Collects what a terminal gets."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("file", [Screen(), io.BytesIO()])
def test_the_stream_keeps_our_own_colours_on_a_terminal_alone(file: io.BytesIO) -> None:
    stream = Stream(io.TextIOWrapper(file, "utf-8"))
    stream.write("\x1b[31m\x1b[1mred\x1b[0m \x1b[8mhidden \x1b[30;40m \x1b]0;x\x07\n")
    control(stream, "\r\x1b[K")
    stream.flush()
    text = file.getvalue().decode()
    colours = text.startswith("\x1b[31m\x1b[1mred\x1b[0m ")
    assert colours == file.isatty()
    assert text.endswith("\r\x1b[K")
    hidden = text[text.index("red") : -4].replace("\x1b[0m", "", int(colours))
    assert not dangerous(hidden)


def test_an_encoding_that_lacks_letters_still_shows_all() -> None:
    file = io.BytesIO()
    stream = Stream(io.TextIOWrapper(file, "latin-1"))
    stream.write("é 日 \x9b2J")
    stream.flush()
    assert file.getvalue() == rb"\xe9 ? \x9b2J".replace(rb"\xe9", b"\xe9")


def test_log_tails_are_visible(tmp_path: Path) -> None:
    log = tmp_path / "base.log"
    log.write_bytes(
        b"one\n" + "".join(f"x{a}\n" for a in ATTACKS.values()).encode("utf-8", "replace")
    )
    lines = last_lines(log, 80)
    assert len(lines) > 25
    assert not dangerous("".join(lines))


def test_a_live_line_shows_what_a_program_said(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    stream = Stream(io.TextIOWrapper(screen, "utf-8"))
    monkeypatch.setattr(sys, "stderr", stream)
    line = LiveLine(lambda text: None)
    line.show("fetching \x1b]52;c;eA==\x07 torch\rdone")
    stream.flush()
    assert screen.getvalue().decode() == "\r\x1b[K" + r"fetching \x1b]52;c;eA==\x07 torch\rdone"


@pytest.mark.parametrize("name", [n for n in ATTACKS if n not in ("surrogate", "zero")])
def test_a_script_spells_what_it_quotes(name: str) -> None:
    value = f"/data/it's {ATTACKS[name]}\\x"
    word = _quoted(value)
    assert not dangerous(word)
    done = subprocess.run(
        ["bash", "-c", f"printf %s {word}"], capture_output=True, check=True, env={"LC_ALL": "C"}
    )
    assert done.stdout == value.encode(errors="surrogateescape")


# --- the whole command --------------------------------------------------------------------------

EVIL = "".join(a for n, a in ATTACKS.items() if n not in ("zero", "surrogate", "byte", "next line"))
"""In one value, as a file can hold it."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine every name of which attacks the terminal."""
    one = EVIL.replace("\r", "").replace("\x0c", "").replace("\x0b", "").replace("\u2028\u2029", "")
    card = CARDS["RTX 5090"].but(name=f"RTX {one}")
    site = "/opt/venv/lib/python3.12/site-packages"
    machine = Machine(
        nvidia=nvidia(card),
        torch="cu124",
        env={"NANOCHAT_BASE_DIR": f"/data/{one}", "CUDA_VISIBLE_DEVICES": f"0,{one}"},
        files={
            "/etc/os-release": f'ID=ubuntu\nPRETTY_NAME="Evil {one}"\nVERSION_ID="24.04{one}"\n',
            "/proc/cpuinfo": f"processor : 0\nmodel name : CPU {one}\nflags : avx2\n",
            f"{site}/torch/version.py": f"__version__ = '2.6.0+cu124{one}'\ncuda: str = '12.4{one}'\n",
        },
    )
    return build(machine, tmp_path_factory.mktemp("hostile"))


WORDS = [
    ("check",),
    ("check", "--json"),
    ("facts",),
    ("plan",),
    ("plan", "--json"),
    ("plan", "--profile", EVIL.replace("\0", "")),
    ("check", "--only", "\x1b]0;x\x07"),
    ("\x1b[2Jnothing",),
]


@pytest.mark.parametrize("words", WORDS, ids=lambda words: " ".join(words[:2]).encode().hex()[:16])
def test_nothing_of_a_tree_reaches_a_pipe(
    doctor: Doctor, hostile: Path, words: tuple[str, ...]
) -> None:
    answer = doctor("--root", str(hostile), "--execute", *words)
    assert answer.out + answer.err
    assert not dangerous(answer.out + answer.err)


def test_nothing_of_a_tree_reaches_a_terminal(hostile: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "doctor", "--root", str(hostile), "--execute", "check"],
        cwd=REPO, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    try:
        while data := os.read(ours, 65536):
            said += data
    except OSError:
        pass  # how Linux says that the other end is closed
    process.wait()
    os.close(ours)
    text = said.decode()
    assert r"\x1b]52;c;" in text
    assert "\x1b[1m" in text, "our own colours are there"
    for colour in ("0", "1", "2", *map(str, range(31, 38))):
        text = text.replace(f"\x1b[{colour}m", "")
    assert not dangerous(text.replace("\r\n", "\n"))


def test_an_ascii_terminal_gets_no_bypass(doctor: Doctor, hostile: Path) -> None:
    answer = doctor("--root", str(hostile), "--execute", "plan", env={"PYTHONIOENCODING": "ascii"})
    assert not dangerous(answer.out + answer.err)


def test_a_stream_takes_text_alone() -> None:
    with pytest.raises(TypeError):
        Stream(io.TextIOWrapper(io.BytesIO(), "utf-8")).write(b"")  # type: ignore[arg-type]


def test_marks_of_the_report_are_printable() -> None:
    assert all(visible(mark) == mark for mark in check.MARKS.values())

"""Talking to a small model as a person does: by flag, through a pipe, at a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import warm

pytest.importorskip("torch")
pytest.importorskip("pyarrow")

import crate  # noqa: F401
from small_model import make_base

from nanochat import device as devices
from nanochat import flags
from nanochat.checkpoint import load_model
from nanochat.engine import Engine
from nanochat.visible import visible
from scripts import chat_cli

REPO = Path(__file__).resolve().parents[2]
PROMPT = "The quick brown"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def base(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(made))
    monkeypatch.setenv("NANOCHAT_DTYPE", "float32")
    return made


def continuation(count: int) -> str:
    """What the model says at temperature 0, by the engine alone."""
    model, tokenizer, _ = load_model("base", devices.find("cpu"), dtype="float32")
    ids = [tokenizer.bos, *tokenizer.encode(PROMPT)]
    return tokenizer.decode(
        Engine(model, tokenizer).complete(ids, max_tokens=count, temperature=0)[0]
    )


def test_a_prompt_is_continued(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat_cli.main(["-i", "base", "-p", PROMPT, "-t", "0", "-m", "9"])
    out, err = capsys.readouterr()
    assert out == f"{PROMPT}{visible(continuation(9))}\n"
    assert "step 7" in err and "float32" in err


def test_seeds_decide(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def text(seed: str) -> str:
        chat_cli.main(["-p", PROMPT, "--max_tokens=12", "--seed", seed, "-t", "1.5", "-k", "0"])
        return capsys.readouterr().out

    assert text("1") == text("1") != text("2")


def test_the_latest_stage_is_the_default_and_answers(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(base, tmp_path / "b")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "b"))
    assert chat_cli.latest_stage() == "base"
    shutil.copytree(tmp_path / "b/base_checkpoints", tmp_path / "b/chatsft_checkpoints")
    assert chat_cli.latest_stage() == "sft"
    chat_cli.main(["-p", PROMPT, "-t", "0", "-m", "5"])
    out, err = capsys.readouterr()
    assert "chatsft_checkpoints" in err and not out.startswith(PROMPT)


def test_a_dialogue_remembers_until_it_is_cleared(base: Path) -> None:
    _, tokenizer, _ = load_model("base", devices.find("cpu"))
    talk = chat_cli.Dialogue(tokenizer)
    first, shown = talk.prompt("fox")
    talk.heard("dog")
    second, _ = talk.prompt("lazy")
    assert shown == ""
    text = re.sub(r"<\|(\w+)\|>", r" \1 ", tokenizer.decode(second)).split()
    assert text == (
        "bos user_start fox user_end assistant_start dog assistant_end "
        "user_start lazy user_end assistant_start"
    ).split()  # fmt: skip
    talk.clear()
    assert talk.prompt("fox")[0] == first


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["-i", "mid", "-p", "x"], 1, "no complete checkpoint"),
        (["-g", "d9", "-p", "x"], 1, "d9"),
        (["-s", "3", "-p", "x"], 1, "step 3"),
        (["-i", "best", "-p", "x"], 2, "best"),
        (["--device-type", "tpu", "-p", "x"], 2, "tpu"),
        (["--dtype", "int8", "-p", "x"], 2, "int8"),
        (["-t", "-1", "-p", "x"], 2, "temperature"),
        (["-m", "0", "-p", "x"], 2, "below 1"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    base: Path, words: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        flags.run(chat_cli.main, words)
    out, err = capsys.readouterr()
    assert left.value.code == status
    assert says in err.splitlines()[-1] and "Traceback" not in err
    assert out in ("", "x")


def environment(base: Path) -> dict[str, str]:
    return os.environ | {
        "NANOCHAT_BASE_DIR": str(base), "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1",
        "NANOCHAT_DTYPE": "float32", "PYTHONUTF8": "1", "TERM": "dumb",
    }  # fmt: skip


def command() -> list[str]:
    return [warm.python(), "-m", "scripts.chat_cli"]


@pytest.mark.slow
def test_a_pipe_is_one_prompt(base: Path) -> None:
    done = subprocess.run(
        [*command(), "-t", "0", "-m", "4"],
        input=f"{PROMPT}\n".encode(), capture_output=True, env=environment(base), timeout=100,
        check=True,
    )  # fmt: skip
    assert done.stdout.decode() == f"{PROMPT}{continuation(4)}\n"


class Terminal:
    """A pseudo-terminal with the command in it."""

    def __init__(self, base: Path, *words: str) -> None:
        self.text, self.seen = "", 0
        line = [*command(), *words]
        self.child, self.file = pty.fork()
        if self.child == 0:
            os.execve(line[0], line, environment(base))

    def type(self, text: str) -> None:
        os.write(self.file, text.encode())

    def wait_for(self, text: str, limit: float = 60) -> None:
        """Until this appears, after what was waited for before."""
        end = time.monotonic() + limit
        while (found := self.text.find(text, self.seen)) < 0:
            ready, _, _ = select.select([self.file], [], [], max(0, end - time.monotonic()))
            assert ready, self.text[self.seen :]
            try:
                self.text += os.read(self.file, 4096).decode("utf-8", "replace")
            except OSError:  # the other side is closed
                raise AssertionError(self.text) from None
        self.seen = found + len(text)

    def status(self) -> int:
        try:
            while data := os.read(self.file, 4096):
                self.text += data.decode("utf-8", "replace")
        except OSError:
            pass
        _, status = os.waitpid(self.child, 0)
        return os.waitstatus_to_exitcode(status)


@pytest.mark.slow
def test_a_conversation_at_a_terminal(base: Path) -> None:
    terminal = Terminal(base, "-t", "1", "-k", "0", "-m", "100000")
    terminal.wait_for("\n> ")
    terminal.type("/help\n")
    terminal.wait_for("Ctrl-C stops")
    terminal.wait_for("\n> ")
    terminal.type("The quick\n")
    terminal.wait_for("The quick")  # what was typed
    terminal.wait_for("The quick")  # what is continued
    terminal.type("\x03")
    terminal.wait_for("\n> ")
    terminal.type("half a li")
    terminal.wait_for("half a li")
    time.sleep(
        0.5
    )  # a signal between Python's drawing of a letter and its waiting for the next is seen late
    terminal.type("\x03")
    terminal.wait_for("\n> ")
    terminal.type("\x04")
    assert terminal.status() == 0
    assert "Traceback" not in terminal.text


@pytest.mark.slow
def test_quit_leaves(base: Path) -> None:
    terminal = Terminal(base)
    terminal.wait_for("\n> ")
    terminal.type("/clear\n")
    terminal.wait_for("\n> ")
    terminal.type("/quit\n")
    assert terminal.status() == 0

"""The command line itself: help, slips of the finger, errors as JSON, completion in a real shell."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from conftest import REPO, SYSTEM_PATH, Doctor

from doctor.cli.completion import SHELLS, how_to, script
from doctor.cli.failures import failure, wants_json
from doctor.cli.help import GROUPS
from doctor.cli.main import cli
from doctor.errors import DoctorError, WrongUsage
from doctor.planner.terms.plan import CHANNELS, ROUTES

WITH_JSON = ("check", "plan", "apply", "render", "speedrun", "build-torch", "build-rustbpe")


def run(*words: str) -> tuple[int, str]:
    """Exit status and output of the command in this process, up to where a command is chosen."""
    try:
        cli.main(list(words), prog_name="nanochat-doctor", standalone_mode=False)
    except click.exceptions.Exit as end:
        return end.exit_code, ""
    except click.ClickException as error:
        failed = failure(error)
        return failed.status, failed.message
    return 0, ""


# --- help -------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("name", ["", *sorted(cli.commands)])
def test_help_of_every_command(name: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*([name] if name else []), flag)[0] == 0
    text = capsys.readouterr().out
    assert text.startswith("Usage: nanochat-doctor") and "-h, --help" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    if name:
        assert f"  nanochat-doctor {name}" in text.partition("Examples:")[2] or name == "check"


def test_commands_stand_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    run("-h")
    lines = capsys.readouterr().out.splitlines()
    assert {name for names in GROUPS.values() for name in names} == set(cli.commands)
    for title, names in GROUPS.items():
        at = lines.index(f"{title}:")
        for name, line in zip(names, lines[at + 1 :], strict=False):
            assert line.split()[0] == name and not line.endswith("...")


def test_every_command_with_a_long_answer_knows_json() -> None:
    known = {n for n, c in cli.commands.items() if any("--json" in p.opts for p in c.params)}
    assert known == set(WITH_JSON)


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("chek",), "There is no command 'chek'; did you mean check?"),
        (("aply", "--yes"), "did you mean apply"),
        (("qqqq",), "-h lists them"),
        (("plan", "--jsno"), "There is no option --jsno; did you mean --json"),
        (("check", "extra"), "check takes no argument extra."),
        (("plan", "--depth", "x"), "'x' is not a valid integer"),
        (("plan", "--depth"), "requires an argument"),
        (("check", "--only", "kitchen"), "'kitchen' is no area"),
    ],
)
def test_wrong_usage_is_one_sentence_that_helps(words: tuple[str, ...], says: str) -> None:
    status, message = run(*words)
    assert status == 2 and says in message and "\n" not in message
    assert message.endswith("-h")


@pytest.mark.parametrize("name", WITH_JSON)
def test_wrong_usage_is_json_where_that_was_asked_for(doctor: Doctor, name: str) -> None:
    answer = doctor(name, "--json", "--no-such-option")
    assert answer.status == 2
    error = answer.json["error"]
    assert answer.json["schema"] == 1 and (error["kind"], error["status"]) == ("usage", 2)
    assert "--no-such-option" in error["message"] and error["message"] in answer.err


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("plan", "--facts", "/nonexistent/facts.json"), 1),
        (("plan", "--route", "magic"), 2),
        (("render", "--facts", "/nonexistent/facts.json"), 1),
        (("--root", "/", "apply"), 2),
        (("--root", "/", "speedrun"), 2),
        (("--root", "/nonexistent", "check"), 2),
    ],
)
def test_failures_are_json_where_that_was_asked_for(
    doctor: Doctor, words: tuple[str, ...], status: int
) -> None:
    answer = doctor(*words, "--json")
    plain = doctor(*words)
    assert answer.status == plain.status == status
    error = json.loads(answer.out.splitlines()[-1])["error"]
    assert error["status"] == status and plain.out == ""
    assert plain.err == answer.err == f"nanochat-doctor: {error['message']}\n"


def test_the_kinds_of_errors() -> None:
    kinds = [
        failure(error).kind
        for error in (
            WrongUsage("x"),
            DoctorError("x"),
            KeyboardInterrupt(),
            ValueError("x"),
            OSError(28, "full"),
        )
    ]
    assert kinds == ["usage", "failed", "interrupted", "unexpected", "failed"]
    assert failure(OSError(28, "No space left")).message == "It could not go on: No space left."


def test_what_goes_to_pytest_asks_for_no_json() -> None:
    assert wants_json(["plan", "--json"]) and not wants_json(["plan"])
    assert not wants_json(["selftest", "--json"]) and not wants_json(["x", "--", "--json"])


def test_apply_asks_for_yes_before_anything_else(doctor: Doctor) -> None:
    answer = doctor("apply")
    assert (answer.status, answer.out) == (2, "")
    assert "--yes" in answer.err and answer.err.count("\n") == 1


# --- completion -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the command in it, as a checkout has."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "nanochat-doctor").write_text(f'#!/bin/sh\nexec {sys.executable} -m doctor "$@"\n')
    (folder / "nanochat-doctor").chmod(0o755)
    return folder


def completed(folder: Path, command: str, *words: str) -> list[str]:
    """What bash offers after some words, the last of them begun."""
    text = f"""
        {script(cli, "bash")}
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        complete -p nanochat-doctor >/dev/null || exit 3
        _nanochat_doctor_completion "$1" "${{@: -1}}" "${{@: -2:1}}"
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", text, "bash", command, *words],
        cwd=folder, capture_output=True, text=True, check=False,
        env={"PATH": f"{folder}:/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        (("pl",), {"plan"}),
        (("",), set(cli.commands)),
        (("--on",), {"--only"}),
        (("--only", "st"), {"storage"}),
        (("check", "--only", "host,to"), {"host,torch"}),
        (("plan", "--route", ""), set(ROUTES[:-1])),
        (("plan", "--channel", "n"), {CHANNELS[1]}),
        (("speedrun", "--profile", "spee"), {"speedrun"}),
        (("render", "--stage", "base_"), {"base_eval"}),
        (("render", "--target", ""), {"shell"}),
        (("completion", "f"), {"fish"}),
        (("plan", "--pro"), {"--profile"}),
    ],
)
def test_bash_completes(programs: Path, words: tuple[str, ...], offers: set[str]) -> None:
    assert set(completed(programs, "nanochat-doctor", *words)) == offers


def test_bash_completes_the_launcher_of_a_checkout(programs: Path) -> None:
    """Bash looks for what is registered under the last part of a path."""
    keys = f"{script(cli, 'bash')}\ncomplete -p nanochat-doctor\n"
    done = subprocess.run(
        ["bash", "--norc", "-c", keys], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith(" nanochat-doctor")
    assert completed(programs, "./nanochat-doctor", "appl") == ["apply"]


def test_completing_a_word_installs_nothing(tmp_path: Path) -> None:
    for name in ("nanochat-doctor", "pyproject.toml"):
        shutil.copy(REPO / name, tmp_path)
    done = subprocess.run(
        ["./nanochat-doctor"], cwd=tmp_path, capture_output=True, check=False,
        env={"PATH": SYSTEM_PATH, "HOME": str(tmp_path), "_NANOCHAT_DOCTOR_COMPLETE": "bash_complete"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nanochat-doctor", "pyproject.toml"]


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_are_valid_in_their_shells(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("completion", shell)[0] == 0
    text = capsys.readouterr().out
    assert "_NANOCHAT_DOCTOR_COMPLETE" in text and shell in how_to(shell, "./nanochat-doctor")
    program = shutil.which(shell)
    if program:
        words = [program, "-n"] if shell == "fish" else [program, "-n", "-c", text]
        done = subprocess.run(words, input=text, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


def test_an_unknown_shell(doctor: Doctor) -> None:
    answer = doctor("completion", "tcsh")
    assert answer.status == 2 and "bash, zsh, fish" in answer.err

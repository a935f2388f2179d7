"""selftest runs every stage to its end, says which failed, and ends with 1 when one did."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from doctor.cli import selftest
from doctor.cli.selftest import Program


def python(name: str, code: str) -> Program:
    return Program(name=name, command=(sys.executable, "-c", code))


def test_all_fine(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stages = [python("one", "print('first')"), python("two", "print('second')")]
    assert selftest.run_stages(stages, tmp_path) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines.index("first") < lines.index("second")
    assert lines[-1].startswith("selftest: everything is fine, 2 stages in ")


def test_a_failing_stage_does_not_stop_the_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stages = [
        python("bad", "raise SystemExit(3)"),
        python("good", "print('still ran')"),
        python("worse", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
    ]
    assert selftest.run_stages(stages, tmp_path) == 1
    out = capfd.readouterr().out
    assert "-- bad: FAILED, exit status 3, " in out
    assert "still ran" in out
    assert "-- good: ok, " in out
    assert out.splitlines()[-1].startswith("selftest: FAILED: bad, worse, 3 stages in ")


def test_what_failed_is_tried_again_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = "import sys; raise SystemExit(0 if '--last-failed' in sys.argv else 1)"
    second = Program(name="tests", command=(sys.executable, "-c", code), again=("--last-failed",))
    assert selftest.run_stages([second], tmp_path) == 0
    never = Program(
        name="tests", command=(sys.executable, "-c", "raise SystemExit(4)"), again=("x",)
    )
    assert selftest.run_stages([never], tmp_path) == 1
    out = capfd.readouterr().out
    assert "== tests, what failed: " in out
    assert "-- tests: FAILED, exit status 4, " in out


def test_heading_stands_above_the_output_of_its_stage(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    selftest.run_stages([python("talk", "print('words')")], tmp_path)
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("== talk: ")
    assert lines[1] == "words"


def test_stages_run_in_the_checkout(tmp_path: Path) -> None:
    stage = python("where", f"import os; assert os.getcwd() == {str(tmp_path.resolve())!r}")
    assert selftest.run_stages([stage], tmp_path) == 0


@pytest.mark.parametrize(("needs", "status"), [("no-such-program-here", 0), (None, 1)])
def test_a_missing_program(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], *, needs: str | None, status: int
) -> None:
    stage = Program(name="lint", command=("no-such-program-here", "x"), needs=needs)
    assert selftest.run_stages([stage], tmp_path) == status
    out = capfd.readouterr().out
    assert "no-such-program-here" in out
    assert ("(skipped: lint)" in out) == (needs is not None)


def test_every_stage_is_in_a_table_that_starts_this_python() -> None:
    names = [stage.name for stage in selftest.STAGES]
    assert len(set(names)) == len(names)
    assert names[-1] == "pytest"
    for stage in selftest.STAGES:
        assert stage.command[0] in (sys.executable, "cargo", "shellcheck")


def test_arguments_go_to_pytest_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tests").mkdir()
    show = "import sys; print('got', sys.argv[1:])"
    monkeypatch.setattr(selftest, "CHECKOUT", tmp_path)
    monkeypatch.setattr(selftest, "STAGES", (python("ruff", show), python("pytest", show)))
    assert selftest.run(["-k", "cards"]) == 0
    out = capfd.readouterr().out.splitlines()
    assert [line for line in out if line.startswith("got")] == ["got []", "got ['-k', 'cards']"]


def test_an_installed_package_has_nothing_to_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(selftest, "CHECKOUT", tmp_path)
    assert selftest.run() == 1
    streams = capsys.readouterr()
    assert streams.out == ""
    assert "needs a checkout" in streams.err
    assert str(tmp_path) in streams.err


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tests").mkdir()
    monkeypatch.setattr(selftest, "TOOLS", ("pytest", "no_such_tool"))
    problem = selftest.unready(tmp_path)
    assert problem is not None
    assert "lacks no_such_tool" in problem
    assert "./nanochat-doctor selftest" in problem

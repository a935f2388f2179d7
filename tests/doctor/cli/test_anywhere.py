"""Commands do the same wherever one stands, whatever folders are called, and keep what the plan has found."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cases.describe import pc
from machines import build

from doctor.cli import actions, decision
from doctor.environment.command_line import parse
from doctor.environment.place import target
from doctor.knowledge.offers import Offers
from doctor.knowledge.tables import Tables
from doctor.machine.system import System
from doctor.planner.commands import Target, typed
from doctor.planner.decide import plan as make_plan
from doctor.planner.terms.plan import Wishes
from doctor.probe.survey import survey

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "else where"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("XDG_CACHE_HOME", "HOME", "NANOCHAT_BASE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return folder


def test_commands_of_a_plan_name_whole_paths(elsewhere: Path) -> None:
    made = decision.decide(System(), Wishes(profile="smoke"), offline=True).plan
    assert made.python is not None and os.path.isabs(made.python)
    for step in made.steps:
        for command in step.commands:
            program = parse(command).words[0]
            assert os.path.isabs(program) or program == "uv", command
            assert "--python" not in command or f"--python {shlex.quote(made.python)}" in command


def test_a_relative_interpreter_is_the_checkouts(elsewhere: Path) -> None:
    """Of a plan that was made for facts, for one."""
    checkout = elsewhere.parent / "checkout"
    made = target(".venv/bin/python", checkout)
    assert (made.python, made.prefix) == (str(checkout / ".venv/bin/python"), checkout / ".venv")


@pytest.mark.parametrize(
    ("command", "short"),
    [
        ("{here}/nanochat-doctor apply", "./nanochat-doctor apply"),
        ("{here}/.venv/bin/python -m x {here}/data", ".venv/bin/python -m x data"),
        ("{here} {here}/ {here}x /usr/bin/python3", "{here} {here}/ {here}x /usr/bin/python3"),
        ("uv pip install 'torch>=2'", "uv pip install 'torch>=2'"),
        ("'{here}/a b/run' \"it's\"", "'a b/run' 'it'\"'\"'s'"),
        ("not 'closed", "not 'closed"),
    ],
)
def test_paths_are_short_on_the_screen_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, short: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert typed(command.format(here=tmp_path)) == short.format(here=tmp_path)


def test_from_the_root_paths_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert typed("/opt/x/run -o /srv/out") == "/opt/x/run -o /srv/out"


NAMES = [
    "base",
    "base dir",
    'it\'s "quoted"',
    "new\nline",
    "übung-数据",
    "\udcff\udcfe",
    "$HOME `id`",
]


@pytest.mark.parametrize("name", NAMES)
def test_scripts_keep_the_base_folder_as_given(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    base = elsewhere / name
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
    decided = decision.decide(System(), Wishes(profile="smoke"), offline=True)
    folder = actions.write_scripts(decided, Path("scripts of " + name)).folder
    assert folder == elsewhere / f"scripts of {name}"
    code = (
        '. "$1"/env.sh; printf "%s\\0" "$NANOCHAT_BASE_DIR" "$NANOCHAT_PYTHON" "$NANOCHAT_CHECKOUT"'
    )
    bare = {"PATH": os.environ["PATH"], "HOME": "/nowhere"}
    said = subprocess.run(
        ["bash", "-euc", code, "bash", folder], env=bare, cwd="/", capture_output=True, check=True
    ).stdout
    found = [os.fsdecode(word) for word in said.split(b"\0")[:-1]]
    assert found == [str(base), str(decided.plan.python), str(REPO)]
    typed_in = {**bare, "NANOCHAT_BASE_DIR": "/other"}
    said = subprocess.run(
        ["bash", "-euc", code, "bash", folder], env=typed_in, capture_output=True, check=True
    ).stdout
    assert said.startswith(b"/other\0"), "what is set when they run counts more"


def test_a_base_folder_without_a_path_is_that_of_the_folder_where_it_was_said(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "data")
    decided = decision.decide(System(), Wishes(profile="smoke"), offline=True)
    assert decided.base_dir == str(elsewhere / "data")


def test_the_mirror_of_the_hub_is_used_by_apply_and_by_the_scripts(tmp_path: Path) -> None:
    tables = Tables()
    facts = survey(System(build(pc("RTX 4090"), tmp_path)), tables)
    for hub in (None, "https://mirror.example/hub"):
        made = make_plan(facts, tables, Wishes(), Target("/e/bin/python"), hub=hub)
        (data,) = (step for step in made.steps if step.id == "data")
        line = parse(data.commands[0])
        assert line.variables == ({"HF_ENDPOINT": hub} if hub else {})
        assert (f"HF_ENDPOINT={hub}" in line.text) == bool(hub)
        assert made.launch is not None and made.launch.env.get("HF_ENDPOINT") == hub


def test_a_later_decision_keeps_the_mirror(elsewhere: Path) -> None:
    wishes = Wishes(profile="smoke")
    decided = decision.decide(System(), wishes, offline=True, hub="https://mirror.example")
    assert decided.plan.launch is not None
    assert decided.plan.launch.env["HF_ENDPOINT"] == "https://mirror.example"


def test_a_silent_index_is_no_refusal(tmp_path: Path) -> None:
    """The plan goes by the tables, and the reason that it shows is the index's own."""
    tables = Tables()
    facts = survey(System(build(pc("RTX 4090", torch=None), tmp_path)), tables)
    known = make_plan(facts, tables, Wishes(), Target("/e/bin/python"))
    assert known.torch is not None
    variants = {row["variant"] for row in tables.rows("torch", "wheel")}
    urls = {tables.pytorch_index(variant): "no answer within 5 s" for variant in variants}
    urls[""] = "no answer within 5 s"
    silent = Offers(unreachable=urls, unsure=frozenset(urls))
    made = make_plan(facts, tables, Wishes(), Target("/e/bin/python"), silent)
    assert (made.route, made.torch) == (known.route, known.torch)
    assert any("no answer within 5 s" in note and "HTTP" not in note for note in made.notes)
    refused = Offers(unreachable={**urls, "": "HTTP 403"}, unsure=frozenset(urls) - {""})
    notes = make_plan(facts, tables, Wishes(), Target("/e/bin/python"), refused).notes
    assert any("the default Python index (HTTP 403)" in note for note in notes)


COMMANDS = ["check", "facts", "plan --offline", "render --offline -o {out}", "apply --yes --undo", "explain -",
            "build-torch --dry-run --source {out}/none", "speedrun --help", "--version"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS)
def test_a_current_folder_that_is_gone(tmp_path: Path, words: str) -> None:
    """Somebody has deleted it in another terminal."""
    code = "import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"
    gone = tmp_path / "gone"
    gone.mkdir()
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    tail = words.format(out=tmp_path / "out").split()
    if tail[0] in ("apply", "plan", "render"):
        tail += ["--python", str(python)]
    done = subprocess.run(
        [sys.executable, "-c", code, gone, shutil.which("env") or "env", sys.executable, "-m", "doctor", *tail],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=100,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode in (0, 1, 2) and "Traceback" not in done.stderr
    assert "could not go on" not in done.stderr and "unexpectedly" not in done.stderr
    assert "No such file or directory" not in done.stderr or words.startswith(("build", "explain"))

"""The commands that decide and carry out, as a user calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cases.describe import pc
from machines import build

from doctor.cli.decision import target_of
from doctor.facts import Facts, Host, Python

Doctor = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """Runs the tool from a folder of its own, with a cache and a base folder, on an index that refuses at once."""
    env = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "NANOCHAT_BASE_DIR": str(tmp_path / "base"),
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }

    def run(*words: object, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "doctor", *map(str, words)]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=env | more,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture
def old_card(tmp_path: Path) -> Path:
    return build(pc("GTX 1080", torch=None), tmp_path / "machine")


def test_plan_of_a_tree_as_text_and_as_json(doctor: Doctor, old_card: Path) -> None:
    text = doctor("--root", old_card, "--execute", "plan")
    assert text.returncode == 0 and text.stderr == ""
    assert text.stdout.startswith("Route: stable-wheel. torch 2.14.1 (cu126)")
    done = doctor("--root", old_card, "--execute", "plan", "--json")
    plan = json.loads(done.stdout)
    assert (done.returncode, plan["schema"], plan["route"]) == (0, 1, "stable-wheel")
    assert plan["torch"]["index_url"].endswith("/cu126") and plan["build"] is None
    launch = plan["launch"]
    assert launch["dtype"] == "float32" and launch["compile"] is False
    tokens = launch["device_batch_size"] * launch["max_seq_len"] * launch["nproc_per_node"]
    assert launch["total_batch_size"] == tokens * launch["grad_accum_steps"]
    assert sorted(launch["ports"]) == ["base", "mid", "rl", "sft"]
    assert len(set(launch["ports"].values())) == 4


def test_facts_of_one_machine_are_planned_on_another(doctor: Doctor, old_card: Path) -> None:
    here = json.loads(doctor("--root", old_card, "--execute", "plan", "--json").stdout)
    for command in ("facts", "check --json"):
        file = old_card.parent / "facts.json"
        file.write_text(doctor("--root", old_card, "--execute", *command.split()).stdout)
        there = json.loads(doctor("plan", "--facts", file, "--json").stdout)
        assert (there["route"], there["torch"]) == (here["route"], here["torch"])
        assert there["launch"] == here["launch"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        ("{", "no JSON"),
        ("[]", "no facts file"),
        ('{"schema": 99}', "schema 99"),
        ('{"schema": 1, "host": {"colour": 1}}', "colour"),
    ],
)
def test_facts_that_are_none(
    doctor: Doctor, tmp_path: Path, content: str | None, says: str
) -> None:
    file = tmp_path / "facts.json"
    if content is not None:
        file.write_text(content)
    done = doctor("plan", "--facts", file)
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ("plan --route fast", 2, "no route"),
        ("plan --profile huge", 2, "huge"),
        ("plan --depth 0", 2, "depth"),
        ("plan --depth x", 2, "depth"),
        ("plan --arch 13.9", 2, "13.9"),
        ("plan --route stable-wheel --channel nightly", 2, "contradict"),
        ("plan --offline --route torch-npu-wheel", 1, "torch-npu-wheel"),
        ("plan --offline --profile npu-8", 1, "npu-8"),
        ("apply", 2, "--yes"),
        ("render --stage chat --offline", 2, "stage"),
        ("render --target slurm --offline", 2, "slurm"),
        ("apply --undo", 2, "--yes"),
    ],
)
def test_wrong_usage_and_wishes_that_do_not_fit(
    doctor: Doctor, words: str, status: int, says: str
) -> None:
    done = doctor(*words.split())
    assert done.returncode == status, done.stderr
    assert says in done.stderr.lower() and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["apply --yes", "speedrun", "build-rustbpe"])
def test_a_tree_cannot_be_changed(doctor: Doctor, old_card: Path, command: str) -> None:
    done = doctor("--root", old_card, "--execute", *command.split())
    assert done.returncode == 2 and "--root" in done.stderr


def test_a_blocked_machine_says_how_and_exits_with_1(doctor: Doctor, tmp_path: Path) -> None:
    root = build(pc("RTX 4090", driver=None, torch=None), tmp_path / "machine")
    done = doctor("--root", root, "--execute", "plan")
    assert done.returncode == 1 and done.stdout.startswith("Route: blocked.")
    assert "Do first what ✗ says" in done.stdout
    done = doctor("--root", root, "--execute", "render", "-o", tmp_path / "out")
    assert done.returncode == 1 and not (tmp_path / "out").exists()


def test_render_writes_what_plan_says(doctor: Doctor, old_card: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = doctor("--root", old_card, "--execute", "render", "-o", out)
    assert done.returncode == 0, done.stderr
    program, script = done.stdout.split()
    assert program == "bash" and (tmp_path / script).samefile(out / "speedrun.sh")
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    assert {"speedrun.sh", "env.sh", "base.sh"} <= set(before)
    doctor("--root", old_card, "--execute", "render", "-o", out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    one = tmp_path / "one"
    doctor("--root", old_card, "--execute", "render", "-o", one, "--stage", "base")
    assert sorted(p.name for p in one.iterdir()) == ["base.sh", "env.sh", "lib.sh"]


def test_nothing_is_asked_offline_and_nobody_waits_for_an_index_that_hangs(
    doctor: Doctor, tmp_path: Path
) -> None:
    empty = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", empty], check=True)
    python = empty / "bin" / "python"
    offline = doctor("plan", "--python", python, "--offline")
    assert offline.returncode == 0 and "No answer" not in offline.stdout
    asked = doctor("plan", "--python", python)
    assert "Route: blocked." in asked.stdout and asked.returncode == 1
    assert "reached" in asked.stdout


def test_steps_go_beside_a_python_that_belongs_to_the_system() -> None:
    def target(**python: object) -> object:
        facts = Facts(host=Host(), python=Python(**python))  # type: ignore[arg-type]
        return target_of(facts)

    usual = target(executable="/opt/venv/bin/python", prefix="/opt/venv", venv=True)
    assert (usual.python, usual.base_python) == ("/opt/venv/bin/python", None)  # type: ignore[attr-defined]
    system = target(executable="/usr/bin/python3", prefix="/usr", venv=False)
    assert (system.python, system.base_python) == (".venv/bin/python", "/usr/bin/python3")  # type: ignore[attr-defined]
    assert target_of(Facts(host=Host())).base_python == "python3"
    assert target_of(Facts(host=Host())).python == ".venv/bin/python"


def test_a_bare_machine_of_the_smallest_kind() -> None:
    from doctor.knowledge.tables import Tables
    from doctor.planner.decide import plan
    from doctor.planner.terms.plan import Wishes

    made = plan(Facts(), Tables(), Wishes(), target_of(Facts()))
    assert (made.route, made.python) == ("cpu-wheel", ".venv/bin/python")
    assert [step.id for step in made.steps] == ["environment", "rustbpe", "torch", "trainer"]

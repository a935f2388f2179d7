"""Runs everything that CI runs, on this machine: the stages below, each to its end.

A stage that fails does not stop the others: whoever mends something wants to see all of it at once.
This is the one file beside `system.py` that starts programs, since it examines this source tree and
not a machine, and its stages write straight to the terminal.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from doctor.checkout import CHECKOUT

TOOLS = ("ruff", "mypy", "pytest", "hypothesis", "pytest_timeout", "xdist")
"""Modules of the extra `test` without which no stage says anything useful."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program to run in the checkout; it has failed when its exit status is not 0."""

    name: str
    command: tuple[str, ...]
    needs: str | None = None
    """A program without which the stage is skipped, with a line that says so."""
    again: tuple[str, ...] = ()
    """Words added for a second run where the first has failed; the outcome of that one counts."""


PYTHON = sys.executable
SIDE_BY_SIDE = min(os.cpu_count() or 1, 4)
"""Processes that run tests; more would want more memory than a small machine has."""
BY_FILE = ("-n", str(SIDE_BY_SIDE), "--dist", "loadfile", "--no-loadscope-reorder")
"""Tests of one file run in turn, files in the order in which they were collected."""
KEPT = {"PYTHONDONTWRITEBYTECODE": ""}
"""What one of the many interpreters has compiled, the others load."""
CRATE = "rustbpe/Cargo.toml"

STAGES = (
    # First: the types of what the trainer imports are checked, too.
    Program(
        name="install trainer",
        command=(PYTHON, "-m", "uv", "pip", "install", "--python", PYTHON, "-e", ".[train,test]"),
    ),
    Program(name="ruff check", command=(PYTHON, "-m", "ruff", "check", ".")),
    Program(name="ruff format", command=(PYTHON, "-m", "ruff", "format", "--check", ".")),
    Program(name="mypy --strict", command=(PYTHON, "-m", "mypy")),
    Program(
        name="shellcheck",
        command=("shellcheck", "nanochat-doctor", ".ci/run"),
        needs="shellcheck",
    ),
    Program(
        name="cargo fmt",
        command=("cargo", "fmt", "--check", "--manifest-path", CRATE),
        needs="cargo-fmt",
    ),
    Program(
        name="cargo clippy",
        command=(
            "cargo",
            "clippy",
            "--locked",
            "--manifest-path",
            CRATE,
            "--all-targets",
            "--all-features",
            "--",
            "-D",
            "warnings",
        ),
        needs="cargo-clippy",
    ),
    Program(
        name="cargo test",
        command=("cargo", "test", "--locked", "--manifest-path", CRATE),
        needs="cargo",
    ),
    Program(
        name="build rustbpe",
        # As its tests are compiled, for what it computes is tested and not how fast; much of that is there already.
        command=(
            *(PYTHON, "-m", "uv", "pip", "install", "--python", PYTHON),
            *("--reinstall-package", "nanochat-rustbpe", "--config-setting"),
            *("build-args=--profile=dev", "./rustbpe[test]"),
        ),
        needs="cargo",
    ),
    Program(
        name="pytest rustbpe",
        command=(
            *(PYTHON, "-m", "pytest", "-q", "-c", "rustbpe/pyproject.toml", "rustbpe/tests"),
            *BY_FILE,
        ),
        needs="cargo",
    ),
    # Last, so that its closing line stands right above the summary. Tests that share a file run in turn; what failed
    # beside others is tried once more alone, since a busy machine is no fault of the code.
    Program(
        name="pytest",
        command=(PYTHON, "-m", "pytest", *BY_FILE),
        again=("-n", "0", "--last-failed", "--last-failed-no-failures", "none"),
    ),
)


def run(argv: Sequence[str] = ()) -> int:
    """Run every stage; what is in `argv` goes to pytest. 0 when all is fine, else 1."""
    if problem := unready(CHECKOUT):
        print(f"nanochat-doctor: {problem}", file=sys.stderr)
        return 1
    stages = [
        replace(stage, command=(*stage.command, *argv)) if stage.name == "pytest" else stage
        for stage in STAGES
    ]
    return run_stages(stages, CHECKOUT)


def unready(checkout: Path) -> str | None:
    """The reason why there is nothing to test here, with its cure."""
    if not (checkout / "tests").is_dir():
        return (
            f"selftest needs a checkout, and {checkout} has no tests folder: an installed package "
            "carries none; clone the repository and run ./nanochat-doctor selftest there"
        )
    if missing := [tool for tool in TOOLS if importlib.util.find_spec(tool) is None]:
        return (
            f"selftest needs the extra 'test', and {sys.executable} lacks {', '.join(missing)}; "
            "run ./nanochat-doctor selftest, which installs it"
        )
    return None


def run_stages(stages: Sequence[Program], folder: Path) -> int:
    """Run all stages in `folder` and close with one line that names those which failed."""
    began = time.monotonic()
    outcomes = {stage.name: run_stage(stage, folder) for stage in stages}
    failed = [name for name, fine in outcomes.items() if fine is False]
    skipped = [name for name, fine in outcomes.items() if fine is None]
    seconds = time.monotonic() - began
    verdict = f"FAILED: {', '.join(failed)}" if failed else "everything is fine"
    note = f" (skipped: {', '.join(skipped)})" if skipped else ""
    say(f"selftest: {verdict}{note}, {len(stages)} stages in {seconds:.1f} s")
    return 1 if failed else 0


def run_stage(stage: Program, folder: Path) -> bool | None:
    """Whether it went well; None where its program is not installed and need not be."""
    program = find(stage.command[0])
    if stage.needs and find(stage.needs) is None:
        say(f"== {stage.name}: skipped, {stage.needs} is not installed")
        return None
    began = time.monotonic()
    command = (program or stage.command[0], *stage.command[1:])
    status = start(stage.name, command, folder)
    if status != 0 and stage.again:
        status = start(f"{stage.name}, what failed", (*command, *stage.again), folder)
    outcome = "ok" if status == 0 else f"FAILED, exit status {status}"
    say(f"-- {stage.name}: {outcome}, {time.monotonic() - began:.1f} s\n")
    return status == 0


def start(name: str, command: Sequence[str], folder: Path) -> int:
    """Run a program to its end; its exit status, and 127 where it does not start."""
    say(f"== {name}: {' '.join(command)}")
    try:
        return subprocess.run(command, cwd=folder, env={**os.environ, **KEPT}).returncode
    except OSError as error:
        say(f"{command[0]} does not start: {error}")
        return 127


def find(program: str) -> str | None:
    """The program beside this Python, where an extra may have put it, else the one on PATH."""
    return shutil.which(str(Path(sys.executable).parent / program)) or shutil.which(program)


def say(line: str) -> None:
    """Flushed, since the stages write to the same stream past our buffer."""
    print(line, flush=True)

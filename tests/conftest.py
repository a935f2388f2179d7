"""What tests of several files share: the command as a person runs it, and an interpreter with torch."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Before any test imports torch: threads that spin for long while they wait make a busy machine ten times as slow.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

# Hundreds of interpreters are started: what one of them has compiled, the others load.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# However slow the machine is today, a test fails for what is wrong and not for how long it took.
hypothesis.settings.register_profile("repository", deadline=None)
hypothesis.settings.load_profile("repository")

# A runner that was started in the background ignores it, and so would all that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# pyenv's stand-ins for programs start bash thirty times before what they stand for; that lies in the second folder.
_shims, _real = os.path.join("pyenv", "shims"), os.path.join(sys.base_prefix, "bin")
os.environ["PATH"] = os.pathsep.join(
    _real if folder.endswith(_shims) else folder for folder in os.environ["PATH"].split(os.pathsep)
)

REPO = Path(__file__).resolve().parent.parent
TORCH_FOLDER = REPO / ".venv-torch"
TORCH_VARIABLE = "NANOCHAT_TEST_TORCH_PYTHON"
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
SHARED_VARIABLE = "NANOCHAT_TEST_SHARED"
"""Names a folder that all processes of a run share, for what one of them makes and others use."""

if SHARED_VARIABLE not in os.environ:
    os.environ[SHARED_VARIABLE] = tempfile.mkdtemp(prefix="nanochat-tests-")
    atexit.register(shutil.rmtree, os.environ[SHARED_VARIABLE], ignore_errors=True)


_held: list[socket.socket] = []


def dead_port() -> int:
    """A port of this machine that refuses; it stays taken, so that no server of a test gets it."""
    _held.append(socket.socket())
    _held[-1].bind(("127.0.0.1", 0))
    port: int = _held[-1].getsockname()[1]
    return port


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with most slow tests first, so that at the end no process waits long for another."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@dataclass(frozen=True)
class Answer:
    """How the command ended and what it said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as JSON; `NaN` and the like are no JSON."""
        return json.loads(self.out, parse_constant=self._refuse)

    @staticmethod
    def _refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")


@dataclass
class Doctor:
    """Runs `python -m doctor` from an empty folder, with an empty home and a small environment."""

    home: Path
    folder: Path
    programs: Path
    env: dict[str, str] = field(default_factory=dict)

    def program(self, name: str, script: str) -> Path:
        """Put a shell script on the PATH, before everything else."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def only_own_programs(self) -> None:
        """Leave nothing on the PATH but the scripts of the test."""
        self.env["PATH"] = str(self.programs)

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """What the command gets; coverage and PYTHON* variables of the test run stay out of it."""
        path = f"{self.programs}:{SYSTEM_PATH}"
        base = {"PATH": path, "HOME": str(self.home), "LC_ALL": "C.UTF-8"}
        return base | self.env | dict(env or {})

    def __call__(self, *words: str, env: Mapping[str, str] | None = None, limit: float = 60,
                 python: list[str] | None = None) -> Answer:  # fmt: skip
        """Run it to its end; `python` replaces the interpreter and its `-m doctor`."""
        done = subprocess.run(
            [*(python or [sys.executable, "-m", "doctor"]), *words],
            cwd=self.folder,
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit,
            check=False,
        )
        answer = Answer(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in answer.out + answer.err, answer.err
        return answer


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    folders = [tmp_path / name for name in ("home", "folder", "programs")]
    for folder in folders:
        folder.mkdir()
    return Doctor(*folders)


@pytest.fixture(scope="session")
def torch_python() -> str:
    """Path of an interpreter with a real torch: the one named, else our own, else one made for it."""
    if named := os.environ.get(TORCH_VARIABLE):
        assert Path(named).is_file(), f"{TORCH_VARIABLE}={named} is no file"
        return named
    if importlib.util.find_spec("torch") is not None:
        return sys.executable
    python = TORCH_FOLDER / "bin" / "python"
    if (TORCH_FOLDER / "complete").exists():
        return str(python)
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if uv is None:
        pytest.skip("no torch here, and no uv that could install it")
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(TORCH_FOLDER)],
        [uv, "pip", "install", "--quiet", "--python", str(python), "torch"],
    ):
        try:
            # Not in the checkout: what apply pins there is not for this environment.
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=1500, check=False, cwd="/"
            )
        except subprocess.TimeoutExpired:
            pytest.skip("no torch here, and installing it takes longer than 25 minutes")
        if done.returncode != 0:
            pytest.skip(f"no torch here, and it cannot be installed: {done.stderr.strip()[-400:]}")
    (TORCH_FOLDER / "complete").touch()
    return str(python)

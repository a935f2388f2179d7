"""The command on stand-in trees, as a person runs it, with a base folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO

from torch_source.standins import GIT, Shape, Toolbox, make_tree, toolbox


@dataclass
class Ended:
    """How the command ended and what it said."""

    status: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """What --json printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    def event(self, name: str) -> dict[str, Any]:
        """The last event of a name."""
        found = [event for event in self.events if event["event"] == name]
        assert found, self.out
        return found[-1]


@dataclass
class Workshop:
    """Runs build-torch with a toolbox; the GPUs of this machine, if any, are hidden."""

    tools: Toolbox
    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keep = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "TMPDIR")}
        self.env = {
            **keep,
            **GIT,
            "HOME": str(self.folder),
            "NANOCHAT_BASE_DIR": str(self.folder / "base"),
            "PYTHONPATH": str(REPO),
            "CUDA_VISIBLE_DEVICES": "",
            **self.env,
        }

    def tree(self, name: str = "pytorch", **shape: Any) -> Path:
        """Make a stand-in tree."""
        return make_tree(self.folder / name, Shape(**{"libuv": self.tools.libuv, **shape}))

    def words(self, source: Path | None, *arguments: str) -> list[str]:
        """The command line."""
        words = [sys.executable, "-m", "doctor", "build-torch", "--python", str(self.tools.python)]
        return [*words, *(["--source", str(source)] if source else []), *arguments]

    def run(
        self, source: Path | None, *arguments: str, env: Mapping[str, str] | None = None
    ) -> Ended:
        """Run it to its end."""
        done = subprocess.run(
            self.words(source, *arguments),
            env={**self.env, **(env or {})},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def start(
        self, source: Path | None, *arguments: str, before: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        """Begin it; its output goes to files beside the tree."""
        out = (self.folder / "out.txt").open("w")
        err = (self.folder / "err.txt").open("w")
        return subprocess.Popen(
            [*before, *self.words(source, *arguments)],
            env=self.env,
            cwd=self.folder,
            stdout=out,
            stderr=err,
            text=True,
        )

    def said(self) -> str:
        """What a started command has said so far."""
        return (self.folder / "out.txt").read_text() + (self.folder / "err.txt").read_text()


@pytest.fixture(scope="session")
def tools() -> Toolbox:
    return toolbox()


@pytest.fixture
def workshop(tools: Toolbox, tmp_path: Path) -> Iterator[Workshop]:
    yield Workshop(tools, tmp_path)

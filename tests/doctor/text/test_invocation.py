"""Commands that are printed begin as the user calls the tool from where he stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from doctor.text import invocation


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose launcher has made the environment in which we run."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    (folder / invocation.NAME).touch()
    monkeypatch.setattr(invocation, "CHECKOUT", folder)
    monkeypatch.setenv("NANOCHAT_VENV", sys.prefix)
    return folder


def test_in_the_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    assert invocation.command("apply") == "./nanochat-doctor apply"


def test_near_and_far(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = checkout / "runs" / "auto"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert invocation.tool() == "../../nanochat-doctor"
    monkeypatch.chdir("/")
    assert invocation.tool() == f"'{checkout}/nanochat-doctor'"
    done = subprocess.run(f"test -f {invocation.tool()}", shell=True, cwd="/", check=False)
    assert done.returncode == 0


def test_in_a_folder_that_is_gone(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert invocation.tool() == f"'{checkout}/nanochat-doctor'"
    monkeypatch.chdir("/")


def test_installed(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from the launcher's environment: by its name where the PATH has it, by its place elsewhere."""
    monkeypatch.setenv("NANOCHAT_VENV", str(tmp_path / "other"))
    programs = Path(sys.prefix) / "bin"
    monkeypatch.setenv("PATH", f"/usr/bin:{programs}")
    assert invocation.command("plan", "--arch", "a b") == "nanochat-doctor plan --arch 'a b'"
    monkeypatch.setenv("PATH", "/usr/bin")
    assert invocation.tool() == str(programs / "nanochat-doctor")


def test_apply_names_another_environment(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    own, other = str(Path(sys.prefix) / "bin" / "python"), "/opt/venv/bin/python3"
    assert invocation.apply_command(own, sys.prefix) == "./nanochat-doctor apply"
    assert invocation.apply_command("/usr/bin/python3", None) == "./nanochat-doctor apply"
    wished = invocation.apply_command(other, "/opt/venv", "--depth", "4")
    assert wished == "./nanochat-doctor apply --python /opt/venv/bin/python3 --depth 4"

"""Environments to install into, with uv and with pip; nothing but loopback is asked."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from apply_world import Bare, World, find_uv, make_world
from index_server import IndexServer

LIMITS = {"UV_HTTP_TIMEOUT": "2", "UV_HTTP_RETRIES": "0", "PIP_TIMEOUT": "2", "PIP_RETRIES": "0"}


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Bare:
    """Makes an environment of a tool once, to be copied."""
    folder = tmp_path_factory.mktemp("environments")
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_"))}

    @functools.cache
    def make(tool: str) -> Path:
        place = str(folder / tool)
        uv = [find_uv(), "venv", "--quiet", "--python", sys.executable, place]
        command = uv if tool == "uv" else [sys.executable, "-m", "venv", place]
        subprocess.run(command, check=True, env=env, capture_output=True)
        return folder / tool

    return make


@pytest.fixture
def index() -> Iterator[IndexServer]:
    with IndexServer() as server:
        yield server


@pytest.fixture
def small_environment(tmp_path: Path, index: IndexServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that keep pip and uv to the index on loopback, and to folders of the test."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_", "CONDA_")) or name in ("VIRTUAL_ENV", "PYTHONPATH"):
            monkeypatch.delenv(name)
    settings = LIMITS | {
        "HOME": str(tmp_path / "home"),
        "UV_CACHE_DIR": str(tmp_path / "uv"),
        "PIP_CACHE_DIR": str(tmp_path / "pip"),
        "PIP_INDEX_URL": f"{index.url}/simple",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_COMPILE": "1",
        "NANOCHAT_BASE_DIR": str(tmp_path / "data"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["uv", pytest.param("pip", marks=pytest.mark.slow)])
def world(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    index: IndexServer,
    bare: Bare,
    small_environment: None,
) -> World:
    return make_world(tmp_path, index, request.param, bare)


@pytest.fixture
def uv_world(tmp_path: Path, index: IndexServer, bare: Bare, small_environment: None) -> World:
    return make_world(tmp_path, index, "uv", bare)


@pytest.fixture
def pip_world(tmp_path: Path, index: IndexServer, bare: Bare, small_environment: None) -> World:
    return make_world(tmp_path, index, "pip", bare)

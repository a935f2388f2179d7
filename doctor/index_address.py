"""Where the default Python index is: what uv or pip is set to, else what a pip has built in.

No address of it stands in our own files; an environment made by uv has no pip to read it from, so the pip that came
with our own interpreter (ensurepip) is the last to be looked into.
"""

from __future__ import annotations

import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

from doctor.probe import network
from doctor.pyenv import PythonEnvironment
from doctor.system import System

PIP_MODULE = "pip/_internal/models/index.py"


def default_index(system: System, env: PythonEnvironment | None) -> str | None:
    """Base URL of the Python index that uv and pip would use; None where nothing tells it.

    Args:
        env: the Python environment that torch is to be installed into, as far as there is one.
    """
    for question in network.python_index(system, env):
        return question.url.removesuffix("/").removesuffix("/pip")
    return built_in() if system.live else None


def built_in() -> str | None:
    """The index of the pip that came with our own interpreter."""
    for wheel in _pip_wheels():
        try:
            with zipfile.ZipFile(wheel) as archive:
                text = archive.read(PIP_MODULE).decode()
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            continue
        if match := network.DEFAULT_URL.search(text):
            return f"{match.group(1).rstrip('/')}/simple"
    return None


def _pip_wheels() -> Iterator[Path]:
    """Wheels of pip that ensurepip installs from; distributions keep them in a folder of their own."""
    folders = [Path(sysconfig.get_path("stdlib"), "ensurepip", "_bundled")]
    if own := sysconfig.get_config_var("WHEEL_PKG_DIR"):
        folders.insert(0, Path(own))
    for folder in folders:
        yield from sorted(folder.glob("pip-*.whl"), reverse=True)

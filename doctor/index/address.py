"""Where the default Python index is: what uv or pip is set to, else what a pip has built in.

An environment made by uv has no pip to read it from, so the pip that came with our own interpreter (ensurepip) is the
last to be looked into.
"""

from __future__ import annotations

from doctor.machine.pyenv import PythonEnvironment
from doctor.machine.system import System
from doctor.probe import network
from doctor.text.built_in_index import built_in


def default_index(system: System, env: PythonEnvironment | None) -> str | None:
    """Base URL of the Python index that uv and pip would use; None where nothing tells it.

    Args:
        env: the Python environment that torch is to be installed into, as far as there is one.
    """
    for question in network.python_index(system, env):
        return question.url.removesuffix("/").removesuffix("/pip")
    return built_in() if system.live else None

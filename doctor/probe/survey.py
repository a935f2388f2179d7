"""Runs the probes side by side and gathers what they found into `Facts`.

A probe that raises or exceeds its time is a result: its area is None with the reason, and the rest
go on.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from doctor import __version__
from doctor.errors import DoctorError, Unknown
from doctor.facts import AREAS, Facts
from doctor.knowledge.tables import Tables
from doctor.machine.linker import Linker
from doctor.machine.pyenv import PythonEnvironment
from doctor.machine.system import System
from doctor.probe import others, python_env, rust, storage
from doctor.probe.ascend import npus
from doctor.probe.host import host
from doctor.probe.nvidia import gpus
from doctor.probe.torch import installed

PROBE_SECONDS = 5.5
"""Programs have 5 s; a probe that is not done shortly after waits for a file system that hangs."""

DEFAULT_AREAS = tuple(area for area in AREAS if area != "network")


def survey(
    system: System,
    tables: Tables,
    *,
    areas: Collection[str] = DEFAULT_AREAS,
    python: str | None = None,
    debug: bool = False,
) -> Facts:
    """Look at a machine.

    Args:
        areas: which of `AREAS` to look at.
        python: path of the interpreter to examine in place of the usual choice.
        debug: let a probe's exception through.

    Raises:
        DoctorError: the tables are damaged.
    """
    for module in (host, gpus, npus, rust):
        with contextlib.suppress(OSError):
            module.start(system)
    place, env, reason = _environment(system, python)
    program = place.executable if place else None
    linker = Linker(system, program=program)
    probes: dict[str, Callable[[], Any]] = {
        "host": lambda: replace(
            host.probe(system, linker), accelerators=others.probe(system, tables)
        ),
        "python": lambda: python_env.probe(system, _known(place, reason), _known(env, reason)),
        "nvidia": lambda: gpus.probe(system, linker, tables, env),
        "ascend": lambda: npus.probe(system, linker, tables, env),
        "torch": lambda: installed.probe(system, Linker(system, program=program), env),
        "rust": lambda: rust.probe(system, env, env.minor if env else None),
        "storage": lambda: storage.probe(system),
        "network": lambda: _network(system, tables, env),
    }
    wanted = {area: probes[area] for area in AREAS if area in areas}
    found, unknown = _side_by_side(wanted, debug)
    return Facts(tool=__version__, root=not system.live, unknown=unknown, **found)


def _environment(
    system: System, python: str | None
) -> tuple[python_env.Interpreter | None, PythonEnvironment | None, str]:
    """The interpreter to examine and its environment, or why there is none."""
    try:
        place = python_env.choose(system, python)
        return place, python_env.environment(system, place), ""
    except Unknown as error:
        return None, None, str(error)


def _known(value: Any, reason: str) -> Any:
    if value is None:
        raise Unknown(reason)
    return value


def _network(system: System, tables: Tables, env: PythonEnvironment | None) -> Any:
    from doctor.probe import network

    return network.probe(system, tables, env)


def _side_by_side(
    probes: dict[str, Callable[[], Any]], debug: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Run each in a thread of its own; threads that hang are left behind."""
    found: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    failures: list[BaseException] = []

    def run(area: str, ask: Callable[[], Any]) -> None:
        try:
            found[area] = ask()
        except Unknown as error:
            unknown[area] = str(error)
        except DoctorError as error:
            failures.append(error)
        except Exception as error:
            unknown[area] = f"the probe failed: {type(error).__name__}: {error}"
            if debug:
                failures.append(error)

    threads = {
        area: threading.Thread(target=run, args=(area, ask), daemon=True, name=f"probe {area}")
        for area, ask in probes.items()
    }
    deadline = time.monotonic() + PROBE_SECONDS
    for thread in threads.values():
        thread.start()
    for area, thread in threads.items():
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            unknown[area] = f"the probe gave no answer within {PROBE_SECONDS:.0f} s"
    if failures:
        raise failures[0]
    return {area: found[area] for area in probes if area in found and area not in unknown}, unknown

"""Proves a torch by using it: imports it in children of the examined interpreter and runs kernels.

Each group of experiments has a process of its own and a time limit, so that a torch that crashes or
hangs is a result.
"""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Sequence

from doctor.checkout import payload
from doctor.errors import Unknown
from doctor.facts import Deep, DeepCheck, Facts
from doctor.machine.background import Background
from doctor.machine.system import Completed, System

KERNEL_SECONDS = 180.0
"""Importing a CUDA torch from a cold disk takes up to a minute, first kernels another."""

STORE_SECONDS = 60.0
RANK_SECONDS = 120.0


def probe(system: System, facts: Facts) -> Deep:
    """Run all experiments that this machine allows.

    Raises:
        Unknown: below a root, where nothing may be run; or there is no interpreter.
    """
    if not system.live:
        raise Unknown("nothing is imported or executed below --root")
    python = facts.python.executable if facts.python else None
    if python is None:
        raise Unknown("no Python could be examined")
    checks = _experiment(system, python, ["kernels"], "import", KERNEL_SECONDS)
    if any(check.name == "import" and check.ok for check in checks):
        checks += _experiment(system, python, ["store"], "TCPStore with libuv", STORE_SECONDS)
        for backend in _backends(checks):
            checks.append(_two_ranks(system, python, backend))
    return Deep(checks=tuple(checks))


def _backends(checks: Sequence[DeepCheck]) -> list[str]:
    """gloo on every machine; NCCL or HCCL too where there are two devices for it."""
    listed = next((c.detail.split(", ") for c in checks if c.name == "devices" and c.ok), [])
    pairs = (("nccl", "cuda:1"), ("hccl", "npu:1"))
    return [backend for backend, second in pairs if second in listed] + ["gloo"]


def _experiment(
    system: System, python: str, arguments: list[str], first: str, seconds: float
) -> list[DeepCheck]:
    """Run one group; if its process ends badly, the last entry says how."""
    try:
        done = _start(system, python, arguments, seconds).result()
    except Unknown as error:
        return [DeepCheck(name=first, ok=False, detail=str(error))]
    checks = read_results(done.stdout)
    if done.status != 0 or not checks:
        name = f"after {checks[-1].name}" if checks else first
        checks.append(DeepCheck(name=name, ok=False, detail=how_it_ended(done)))
    return checks


def _two_ranks(system: System, python: str, backend: str) -> DeepCheck:
    """An all-reduce over two ranks on this machine."""
    name = f"all-reduce {backend}"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    ranks = [
        _start(system, python, ["rank", str(rank), str(port), backend], RANK_SECONDS)
        for rank in (0, 1)
    ]
    results: list[DeepCheck] = []
    for rank, future in enumerate(ranks):
        try:
            done = future.result()
            lines = read_results(done.stdout)
            results.append(
                lines[0] if lines else DeepCheck(name=name, ok=False, detail=how_it_ended(done))
            )
        except Unknown as error:
            results.append(DeepCheck(name=name, ok=False, detail=f"rank {rank}: {error}"))
    worst = next((r for r in results if not r.ok), results[0])
    return DeepCheck(name=name, ok=worst.ok, detail=worst.detail, seconds=worst.seconds)


def _start(
    system: System, python: str, arguments: list[str], seconds: float
) -> Background[Completed]:
    return system.start([python, str(payload("deep_check")), *arguments], seconds)


def read_results(text: str) -> list[DeepCheck]:
    """Results among whatever else a torch prints to the same stream."""
    checks = []
    for line in text.splitlines():
        if not line.startswith('{"name"'):
            continue
        try:
            data = json.loads(line)
            name, ok, detail, seconds = (data[k] for k in ("name", "ok", "detail", "seconds"))
        except (ValueError, LookupError, TypeError, RecursionError):
            continue
        if (ok is None or isinstance(ok, bool)) and isinstance(seconds, (int, float)):
            checks.append(DeepCheck(name=str(name), ok=ok, detail=str(detail), seconds=seconds))
    return checks


def how_it_ended(done: Completed) -> str:
    """A crash in words: the signal, and the last line that was printed to stderr."""
    last = (done.stderr.strip().splitlines() or [""])[-1][:300]
    if done.status < 0:
        try:
            name = signal.Signals(-done.status).name
        except ValueError:
            name = f"signal {-done.status}"
        return f"the process was ended by {name}" + (f": {last}" if last else "")
    return f"the process ended with status {done.status}" + (f": {last}" if last else "")

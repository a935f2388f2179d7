"""Proves a wheel: installs it into a fresh environment, reads it there, imports it, lets ranks meet."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from doctor.checkout import payload
from doctor.compile.torch.product import Wanted, shortcomings
from doctor.errors import DoctorError, Unknown
from doctor.facts import DeepCheck, TorchBuild
from doctor.machine.linker import Linker
from doctor.machine.system import System
from doctor.probe.torch.binaries import read_build
from doctor.probe.torch.deep import how_it_ended, read_results

INSTALL_SECONDS = 1800
CHECK_SECONDS = 180.0
"""For an import from a cold disk, or a rank that waits for the other."""


@dataclass(frozen=True)
class Proof:
    """What was read and what was tried.

    Attributes:
        build: the installed package, as its files tell.
        checks: experiments in the order in which they ran.
        lacks: clauses that say what is not as asked; empty for a good wheel.
    """

    build: TorchBuild
    checks: tuple[DeepCheck, ...]
    lacks: tuple[str, ...]


def prove(
    wheel: Path, folder: Path, python: str, env: Mapping[str, str], wanted: Wanted, gpus: int
) -> Proof:
    """Install a wheel and try it; the environment is removed afterwards.

    Args:
        folder: for the environment; what lies there is removed.
        gpus: visible devices that a CUDA build must run on; 0 runs no kernel.

    Raises:
        DoctorError: there can be no environment, or what the wheel depends on cannot be had.
    """
    try:
        child = _install(wheel, folder, python, env)
        system = System(seconds=CHECK_SECONDS)
        system.env = {k: v for k, v in env.items() if not k.startswith("PYTHON")}
        package = _package(folder)
        build = read_build(system, Linker(system), str(package), {})
        lacks = list(shortcomings(build, wanted))
        checks = list(_experiments(system, child, wanted, gpus))
        lacks += [f"{check.name} failed: {check.detail}" for check in checks if check.ok is False]
        return Proof(build, tuple(checks), tuple(lacks))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _install(wheel: Path, folder: Path, python: str, env: Mapping[str, str]) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    child = str(folder / "bin" / "python")
    uv = shutil.which("uv", path=env.get("PATH"))
    if uv:
        steps = [
            [uv, "venv", "--quiet", "--python", python, str(folder)],
            [uv, "pip", "install", "--quiet", "--python", child, str(wheel)],
        ]
    else:
        # the pip of the Python that builds serves the new environment, too: making one takes longest
        steps = [
            [python, "-m", "venv", "--without-pip", str(folder)],
            [python, "-m", "pip", "--python", child, "install", "--quiet", "--disable-pip-version-check",
             str(wheel)],
        ]  # fmt: skip
    clean = {k: v for k, v in env.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    for step in steps:
        try:
            done = subprocess.run(
                step,
                env=clean,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=INSTALL_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DoctorError(
                f"The wheel {wheel} was built, but {step[0]} could not install it for the proof: {error}; "
                "run it again with --resume."
            ) from error
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[
                -1
            ]
            raise DoctorError(
                f"The wheel {wheel} was built, but it cannot be installed into a fresh environment: "
                f"{said}; run it again with --resume where its dependencies can be had."
            )
    return child


def _package(folder: Path) -> Path:
    found = sorted(folder.glob("lib/python3*/site-packages/torch"))
    if not found:
        raise DoctorError("The wheel holds no package named torch; look into its tree's setup.py.")
    return found[0]


def _experiments(system: System, python: str, wanted: Wanted, gpus: int) -> Sequence[DeepCheck]:
    """Import, a store with libuv, two ranks, and kernels where there is a device; a failed import ends it."""
    found = [_import(system, python)]
    if not found[0].ok:
        return found
    if wanted.libuv:
        found.append(_one(system, python, ["store"], "TCPStore with libuv"))
    backends = ["gloo"] + (["nccl"] if gpus > 1 and wanted.archs else [])
    found += [_two_ranks(system, python, backend) for backend in backends]
    if gpus and wanted.archs:
        found += _run(system, python, ["kernels"], "kernels")
    return found


def _import(system: System, python: str) -> DeepCheck:
    """The import alone: nothing else of torch is needed for it."""
    code = "import torch; print('torch ' + torch.__version__)"
    try:
        done = system.start([python, "-I", "-c", code], CHECK_SECONDS).result()
    except Unknown as error:
        return DeepCheck(name="import", ok=False, detail=str(error))
    said = re.search(r"^torch \S+", done.stdout, re.MULTILINE)
    if done.status or said is None:
        return DeepCheck(name="import", ok=False, detail=how_it_ended(done))
    return DeepCheck(name="import", ok=True, detail=said[0])


def _run(system: System, python: str, arguments: list[str], name: str) -> list[DeepCheck]:
    """One group of experiments in a process of its own; how it ended is one too where it ended badly."""
    try:
        done = system.start(
            [python, str(payload("deep_check")), *arguments], CHECK_SECONDS
        ).result()
    except Unknown as error:
        return [DeepCheck(name=name, ok=False, detail=str(error))]
    checks = read_results(done.stdout)
    if done.status or not checks:
        checks.append(DeepCheck(name=name, ok=False, detail=how_it_ended(done)))
    return checks


def _one(system: System, python: str, arguments: list[str], name: str) -> DeepCheck:
    checks = _run(system, python, arguments, name)
    return next((check for check in checks if not check.ok), checks[0])


def _two_ranks(system: System, python: str, backend: str) -> DeepCheck:
    """An all-reduce over two processes of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    script = str(payload("deep_check"))
    ranks = [
        system.start([python, script, "rank", str(rank), port, backend], CHECK_SECONDS)
        for rank in (0, 1)
    ]
    results = []
    for rank in ranks:
        try:
            done = rank.result()
            told = read_results(done.stdout)
            results.append(
                told[0] if told else DeepCheck(name="rank", ok=False, detail=how_it_ended(done))
            )
        except Unknown as error:
            results.append(DeepCheck(name="rank", ok=False, detail=str(error)))
    worst = next((result for result in results if not result.ok), results[0])
    return DeepCheck(name=f"two ranks, {backend}", ok=worst.ok, detail=worst.detail)

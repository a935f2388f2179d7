"""Whether a torch that is already on the machine will do: the rules of `check`, asked about that one build."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from doctor.facts import Facts, TorchBuild
from doctor.findings.finding import ERROR, Finding
from doctor.findings.rules.examine import examine
from doctor.knowledge import compat
from doctor.knowledge.tables import Tables
from doctor.knowledge.versions import minor, older
from doctor.planner.terms.plan import Wishes

GPU_ONLY = frozenset(
    {"torch.cpu-only-build", "torch.arch-missing", "torch.no-nccl", "cuda.driver-too-old"}
)
"""What does not matter where the CPU is to do the work."""

NOT_CURED_BY_ANOTHER_TORCH = frozenset(
    {"torch.shadowed", "torch.nvjitlink-mismatch", "torch.version-conflict", "torch.abi-mismatch"}
)
"""Faults of the environment around a torch; they are findings of the plan, and no reason to replace it."""

UNANSWERED = frozenset({"doctor.rule-failed", "doctor.not-examined"})
"""A rule or probe that gave no answer; what it would have said is never taken for a yes."""

OTHERS = frozenset(
    {
        "cuda.driver-too-old",
        "cuda.library-missing",
        "host.glibc-too-old",
        "host.library-missing",
        "npu.torch-npu-missing",
        "npu.torch-npu-mismatch",
    }
)
"""What counts against a torch beside the codes that begin with `torch.`."""


def objections(
    build: TorchBuild, facts: Facts, tables: Tables, wishes: Wishes, kind: str
) -> Iterator[str]:
    """Why a build does not do, each in a sentence with this machine's values; nothing if it does.

    Args:
        build: the installed torch, or the tree of a local build.
        kind: device type that is to do the work.
    """
    assert facts.torch is not None
    as_installed = replace(facts, torch=replace(facts.torch, installed=build))
    for finding in examine(as_installed, tables):
        if finding.code in UNANSWERED:
            yield f"whether torch {build.version} serves here is unknown: {finding.cause}"
        elif finding.severity == ERROR and _counts(finding, kind):
            yield finding.cause
    yield from _unmet(build, tables, wishes)


def _counts(finding: Finding, kind: str) -> bool:
    code = finding.code
    if code in NOT_CURED_BY_ANOTHER_TORCH or (kind == "cpu" and code in GPU_ONLY):
        return False
    return code.startswith("torch.") or code in OTHERS


def _unmet(build: TorchBuild, tables: Tables, wishes: Wishes) -> Iterator[str]:
    name = f"torch {build.version}"
    if wishes.libuv and build.libuv is not True:
        lack = (
            "was built without libuv"
            if build.libuv is False
            else "does not show whether it has libuv"
        )
        yield f"{name} {lack}, which was asked for."
    if wishes.channel == "nightly" and ".dev" not in (build.version or ""):
        yield f"{name} is no nightly, which was asked for."
    for arch in missing_archs(build, wishes.archs, tables):
        yield f"{name} has no code for architecture {arch}, which was asked for."


def missing_archs(build: TorchBuild, archs: Sequence[str], tables: Tables) -> list[str]:
    """Which of the architectures asked for a build has no code for."""
    return [
        arch
        for arch in archs
        if compat.build_runs(build, arch.removesuffix("+PTX").rstrip("f"), tables)
        not in (compat.Runs.NATIVE, compat.Runs.PTX)
    ]


def old_for_trainer(build: TorchBuild, floor: str) -> str | None:
    """A remark where a build is older than what the trainer was made for."""
    if not build.version or not older(minor(build.version), floor):
        return None
    return f"torch {build.version} is older than {floor}, the oldest that the trainer was made for."

"""What a route is asked, and what it answers: one machine, its findings, the wishes; a decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from doctor.facts import Facts
from doctor.findings.context import Context
from doctor.findings.finding import ERROR, Finding
from doctor.findings.rules.examine import examine
from doctor.knowledge.offers import Offers
from doctor.knowledge.tables import Tables
from doctor.planner.terms.plan import Build, TorchChoice, Wishes
from doctor.planner.terms.wheels import Pick

BLOCKING: Mapping[str, frozenset[str]] = {
    "npu": frozenset(
        {
            "npu.driver-missing",
            "npu.no-devices-visible",
            "npu.init-failed",
            "npu.cann-missing",
            "npu.driver-cann-mismatch",
        }
    ),
    "cuda": frozenset(
        {
            "cuda.driver-missing",
            "cuda.driver-library-mismatch",
            "cuda.no-devices-visible",
            "cuda.init-failed",
        }
    ),
}
"""Findings without whose cure no torch runs on the devices of a kind, whichever it is."""

BLOCKING_THE_LAST = frozenset({"cuda.hardware-fault", "host.wsl"})
"""The same where no sound GPU is left."""

BLOCKING_ALL = frozenset({"host.python-32bit", "host.python-too-old"})
"""The same for all kinds."""

KINDS = ("npu", "cuda", "mps", "cpu")
"""Kinds of device, the first that a machine has counts."""


@dataclass(frozen=True)
class Decision:
    """A route that serves the machine."""

    route: str
    kind: str
    reason: str
    torch: TorchChoice | None
    build: Build | None = None
    pick: Pick | None = None
    findings: tuple[Finding, ...] = ()
    """What the route runs into, beyond what check finds."""
    hours: float = 0.0
    """Of a build."""
    network_mb: int = 0
    disk_mb: int = 0
    notes: tuple[str, ...] = ()


@dataclass
class Question:
    """One machine, what is known beside it, and what the user asks for."""

    facts: Facts
    tables: Tables
    wishes: Wishes
    offers: Offers | None
    context: Context = field(init=False)
    findings: list[Finding] = field(init=False)

    def __post_init__(self) -> None:
        self.context = Context(self.facts, self.tables)
        self.findings = examine(self.facts, self.tables)

    def blockers(self, kind: str) -> list[Finding]:
        """What keeps every torch from the devices of a kind."""
        codes = BLOCKING.get(kind, frozenset()) | BLOCKING_ALL
        sound = bool(kind == "cuda" and self.context.sound_gpus)
        if kind == "cuda" and not sound:
            codes |= BLOCKING_THE_LAST
        found = [f for f in self.findings if f.severity == ERROR and f.code in codes]
        if kind == "cpu" and not self.cpu_is_asked_for:
            found += unseen(self.facts, self.findings)
        some = sound or self._some_are_masked(kind)
        return [f for f in found if not (some and f.code.endswith(".no-devices-visible"))]

    @property
    def cpu_is_asked_for(self) -> bool:
        """Whether the CPU is to do the work whatever else there is."""
        return self.wishes.route == "cpu-wheel" or _profile_kind(self) == "cpu"

    def _some_are_masked(self, kind: str) -> bool:
        """Whether a variable names devices that do not exist, and some that do."""
        area = self.facts.nvidia if kind == "cuda" else self.facts.ascend
        return bool(area and area.visible_variable and area.visible)


def unseen(facts: Facts, findings: Sequence[Finding]) -> list[Finding]:
    """Findings that an area with accelerators could not be looked at: that there is none is not known."""
    reasons = [reason for area, reason in facts.unknown.items() if area in ("nvidia", "ascend")]
    return [
        f
        for f in findings
        if f.code == "doctor.not-examined" and any(r in f.evidence for r in reasons)
    ]


def kinds(question: Question) -> list[str]:
    """Kinds of device that could do the work here, best first.

    The CPU is the last resort only where there is no accelerator at all: a machine whose accelerator does not work
    wants a cure, not a slow run. Whoever wants the CPU asks for it by route; a profile that runs on the CPU is content
    with a torch for the accelerator, and takes one for the CPU where the accelerator does not work.
    """
    context, wishes = question.context, question.wishes
    host = question.facts.host
    if wishes.route == "cpu-wheel":
        return ["cpu"]
    if wishes.route == "mps-wheel":
        return ["mps"]
    found = [
        kind
        for kind, there in (
            ("npu", context.has_npu),
            ("cuda", context.has_nvidia),
            ("mps", bool(host and host.os == "Darwin" and host.arch == "arm64")),
        )
        if there
    ]
    if not found or _profile_kind(question) == "cpu":
        found.append("cpu")
    return found


def _profile_kind(question: Question) -> str | None:
    if question.wishes.profile is None:
        return None
    return question.tables.profile(question.wishes.profile).get("device_type")

"""Facts, tables and wishes in, a plan out. Pure: the same question has the same answer, on any machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from doctor.errors import WrongUsage
from doctor.facts import Facts
from doctor.findings.context import Context, joined
from doctor.knowledge.offers import Offers
from doctor.knowledge.supply import Supply
from doctor.knowledge.tables import Tables
from doctor.planner import moot, tokenizer
from doctor.planner.commands import Target
from doctor.planner.routes.order import decide
from doctor.planner.steps import steps
from doctor.planner.terms import wheels
from doctor.planner.terms.plan import CHANNELS, ROUTES, Plan, Wishes
from doctor.planner.terms.question import Question


def plan(
    facts: Facts,
    tables: Tables,
    wishes: Wishes,
    target: Target,
    offers: Offers | None = None,
    hub: str | None = None,
    supply: Supply | None = None,
) -> Plan:
    """Decide how a machine gets its PyTorch, and how the trainer is started on it.

    Args:
        target: where the steps install.
        offers: what the indexes have; None decides from the tables alone, as if all could be reached.
        supply: what can be had for the tokenizer; None as if all could.
        hub: mirror of the Hugging Face hub to fetch data from, where the hub itself gave no answer.

    Raises:
        WrongUsage: a wish that is wrong in itself, or two that contradict each other.
        DoctorError: wish and machine do not go together.
    """
    check_wishes(wishes, tables)
    if wishes.archs:
        from doctor.planner.build.wish import canonical_archs

        native = Context(facts, tables).capabilities
        wishes = replace(
            wishes, archs=canonical_archs(wishes.archs, tables, native=native, known=())
        )
    question = Question(facts, tables, wishes, offers)
    decision, rejected = decide(question)
    moot.refuse(wishes, decision)
    way = tokenizer.choose(facts, tables, supply)
    launch = None
    if decision.torch is not None:
        from doctor.planner.launch.settle import settle

        launch = settle(
            question.context, tables, wishes, decision.torch, kind=decision.kind, hub=hub
        )
    told = tokenizer.notes(way) if decision.route != "blocked" else []
    return Plan(
        route=decision.route,
        reason=decision.reason,
        rejected=tuple(rejected),
        torch=decision.torch,
        build=decision.build,
        steps=steps(
            decision, launch, facts, tables, target, wheels.index_option(tables, offers), way
        ),
        launch=launch,
        findings=(
            *question.findings,
            *decision.findings,
            *tokenizer.findings(way, question.context),
        ),
        python=target.python,
        notes=(
            *_unknowns(facts),
            *decision.notes,
            *moot.notes(wishes, decision),
            *_network(offers, tables),
            *told,
        ),
    )


def check_wishes(wishes: Wishes, tables: Tables) -> None:
    """Refuse what can be wrong in no machine's eyes.

    Raises:
        WrongUsage: unknown names, impossible numbers, contradictions.
    """
    _one_of("route", wishes.route, ROUTES)
    _one_of("channel", wishes.channel, CHANNELS)
    if wishes.profile is not None:
        tables.profile(wishes.profile)
    for name, value in (("depth", wishes.depth), ("nproc", wishes.nproc)):
        if value is not None and value < 1:
            raise WrongUsage(f"--{name} is {value}, but must be at least 1.")
    if (wishes.route, wishes.channel) in (("stable-wheel", "nightly"), ("nightly-wheel", "stable")):
        raise WrongUsage(
            f"--route {wishes.route} and --channel {wishes.channel} contradict each other; leave one out."
        )


def _one_of(name: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise WrongUsage(f"'{value}' is no {name}; choose one of {', '.join(known)}.")


def _unknowns(facts: Facts) -> list[str]:
    """Areas that could not be looked at and that decide: a CPU plan must not come of a probe that failed."""
    return [
        f"What there is of {area} is unknown ({facts.unknown[area]}), so the plan takes it for absent."
        for area in ("nvidia", "ascend", "host", "python")
        if area in facts.unknown
    ]


def _network(offers: Offers | None, tables: Tables) -> list[str]:
    if offers is None or not offers.unreachable:
        return []
    called = {url: url or "the default Python index" for url in offers.unreachable}
    reasons = [f"{called[url]} ({reason})" for url, reason in offers.unreachable.items()]
    notes = [f"No answer from {joined(reasons)}."]
    if offers.unsure:
        notes.append(
            f"{joined(sorted(called[url] for url in offers.unsure))} may be slow, or let in pip and uv alone: "
            "of it the plan says what the tables know."
        )
    if not offers.answered and not offers.unsure:
        mirrors = [f"{row['name']} ({row['url']})" for row in tables.mirrors("python")]
        notes.append(
            "Nothing can be downloaded here now: what is not installed yet needs a network, a proxy (HTTPS_PROXY) or a "
            f"mirror (PIP_INDEX_URL), such as {joined(mirrors[:2], 'or')}."
        )
    return notes


CURED: Mapping[str, frozenset[str]] = {
    "wheel": frozenset(
        {
            "torch.missing", "torch.import-fails", "torch.cpu-only-build", "torch.arch-missing",
            "torch.no-nccl", "torch.no-distributed", "torch.no-libuv", "torch.triton-missing",
            "cuda.library-missing", "cuda.driver-too-old", "npu.torch-npu-missing",
            "npu.torch-npu-mismatch", "npu.python-deps-missing", "rust.missing",
        }
    ),
    "always": frozenset({"npu.cann-env-not-set", "npu.python-deps-missing"}),
}  # fmt: skip
"""Errors that the plan itself cures: by the torch that it installs, or by how it starts the trainer."""


def open_errors(made: Plan) -> list[str]:
    """Codes of the errors that are still there when the plan has been carried out: a person must act."""
    cured = CURED["always"] | (CURED["wheel"] if made.route not in ("keep", "blocked") else set())
    if any(step.id == "torch-packages" for step in made.steps):
        cured |= {"torch.version-conflict"}
    return [f.code for f in made.findings if f.severity == "error" and f.code not in cured]


__all__ = ["Target", "check_wishes", "open_errors", "plan"]

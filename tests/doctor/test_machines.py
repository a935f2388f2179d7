"""Every machine of tests/cases: all that is said of it, and nothing else."""

from __future__ import annotations

import re

import pytest
from cases import CASES, Case
from verdicts import TABLES, check_shapes, facts_of

from doctor.facts import Facts
from doctor.findings.context import Context
from doctor.findings.finding import ERROR, INFO, WARNING, Finding
from doctor.findings.rules.examine import examine
from doctor.planner.routes.order import decide
from doctor.planner.terms.plan import Wishes
from doctor.planner.terms.question import Question


def judge(case: Case, findings: list[Finding]) -> None:
    """Compare all that was said with what is to be said."""
    by_severity = {s: {f.code for f in findings if f.severity == s} for s in (ERROR, WARNING, INFO)}
    said = "\n".join(f"{f.severity} {f.code}: {f.cause}" for f in findings if f.severity != INFO)
    assert by_severity[ERROR] == set(case.errors.split()), said
    assert by_severity[WARNING] == set(case.warnings.split()), said
    assert by_severity[INFO] >= set(case.infos.split())
    check_shapes(findings)
    text = "\n".join(
        "\n".join((f.cause, f.remedy.text, *f.remedy.commands))
        for f in findings
        if f.severity != INFO
    )
    for pattern in case.says:
        assert re.search(pattern, text), text
    for pattern in case.never:
        assert not re.search(pattern, text), text


def never_silently_on_the_cpu(facts: Facts, findings: list[Finding]) -> None:
    """A GPU or NPU goes unused only where a finding blocks or tells why."""
    context = Context(facts, TABLES)
    if not (context.has_nvidia or context.has_npu):
        return
    decision, _ = decide(Question(facts, TABLES, Wishes(), None))
    areas = {f.code.partition(".")[0] for f in findings}
    reasons = [f for f in findings if f.code in ("host.wsl", "torch.arch-missing")]
    assert decision.kind != "cpu" or reasons or areas & {"cuda", "npu"}, decision.reason


@pytest.mark.parametrize("name", CASES)
def test_verdict(name: str) -> None:
    facts = facts_of(name)
    findings = examine(facts, TABLES)
    judge(CASES[name], findings)
    never_silently_on_the_cpu(facts, findings)

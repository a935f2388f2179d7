"""Every machine of tests/cases: all that is said of it, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cases import CASES, Case
from verdicts import check_shapes, look

from doctor.findings import ERROR, INFO, WARNING, Finding


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


def test_enough_machines() -> None:
    assert len(CASES) >= 200
    codes = {
        c for row in CASES.values() for c in f"{row.errors} {row.warnings} {row.infos}".split()
    }
    assert len(codes) >= 50


@pytest.mark.parametrize("name", CASES)
def test_verdict(name: str, tmp_path: Path) -> None:
    judge(CASES[name], look(CASES[name].machine, tmp_path)[1])

"""What a rule or a probe that gave no answer would have said is never taken for a yes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from facts_of_machines import CPU_TORCH, CUDA_TORCH, HOST, PC, PYTHON, with_card
from verdicts import TABLES

import doctor.findings.rules.examine as package
from doctor.facts import Ascend, Facts, Nvidia, Torch
from doctor.findings.context import Context
from doctor.findings.finding import ERROR, Finding
from doctor.findings.rules.examine import examine
from doctor.planner.commands import Target
from doctor.planner.decide import plan
from doctor.planner.terms.plan import Plan, Wishes

TARGET = Target(".venv/bin/python", uv=True)


def planned(facts: Facts, **wishes: object) -> Plan:
    return plan(facts, TABLES, Wishes(**wishes), TARGET)  # type: ignore[arg-type]


def test_nothing_is_kept_on_a_rule_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = replace(PC, torch=Torch(installed=CUDA_TORCH))
    assert planned(facts).route == "keep"

    def broken(_: Context) -> Iterator[Finding]:
        """Fails."""
        raise KeyError("min_driver")
        yield

    monkeypatch.setattr(package, "RULES", (*package.RULES, broken))
    made = planned(facts)
    assert made.route != "keep"
    assert "unknown" in made.rejected[0].reason and "min_driver" in made.rejected[0].reason


@pytest.mark.parametrize("area", ["nvidia", "ascend", "host", "torch"])
def test_nothing_is_kept_and_nothing_is_fine_where_a_probe_failed(area: str) -> None:
    whole = Facts(
        host=HOST,
        python=PYTHON,
        nvidia=Nvidia(),
        ascend=Ascend(),
        torch=Torch(installed=CPU_TORCH),
    )
    assert planned(whole).route == "keep"
    failed = replace(whole, unknown={area: "the probe gave no answer within 6 s"}, **{area: None})
    assert any(f.severity == ERROR for f in examine(failed, TABLES))
    assert planned(failed).route != "keep"


@pytest.mark.parametrize("area", ["nvidia", "ascend"])
def test_no_answer_about_accelerators_is_no_cpu_machine(area: str) -> None:
    facts = Facts(host=HOST, python=PYTHON, nvidia=Nvidia(), ascend=Ascend(), torch=Torch())
    assert planned(facts).route == "cpu-wheel"
    failed = replace(facts, unknown={area: "the probe failed: OSError: x"}, **{area: None})
    made = planned(failed)
    assert made.route == "blocked" and "OSError" in made.reason
    assert planned(failed, route="cpu-wheel").route == "cpu-wheel", "whoever asks for it has it"
    assert planned(failed, profile="smoke").route == "cpu-wheel"


@pytest.mark.parametrize("row", TABLES.rows("cuda", "arch"), ids=lambda row: str(row["cc"]))
def test_every_architecture_goes_through_check_and_plan(row: dict[str, object]) -> None:
    cc = str(row["cc"])
    for torch in (None, CPU_TORCH, CUDA_TORCH):
        for driver in (None, "580.95.05"):
            made = planned(with_card(cc, driver, torch))
            assert made.reason.endswith(".")
            assert "doctor.rule-failed" not in {f.code for f in made.findings}
            if made.route == "keep":
                assert torch is CUDA_TORCH or float(cc) < 3.8, (
                    "a CPU build beside a card that some torch serves"
                )

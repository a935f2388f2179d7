"""What check prints for people: areas, problems, how many there are, and what to do next."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cases.describe import atlas, pc
from machines import Machine
from verdicts import look

from doctor.cli.pages.check import AREA_OF_RULES, print_report, unknowns
from doctor.cli.pages.check import RULES as OF_RULES
from doctor.facts import AREAS, Facts, from_json, to_json
from doctor.findings.finding import ERROR, INFO, WARNING, Finding, Remedy
from doctor.findings.rules.examine import RULES
from doctor.text import invocation
from doctor.text.paper import columns

SHOWN = tuple(area for area in AREAS if area != "network")


def report(facts: Facts, findings: list[Finding], verbose: bool = False) -> str:
    out = io.StringIO()
    print_report(facts, findings, SHOWN, out, verbose)
    return out.getvalue()


def area(text: str, name: str) -> str:
    """The line of an area."""
    return next(line for line in text.splitlines() if line[2:].startswith(name))


def finding(code: str, severity: str, *commands: str, text: str = "Do it.") -> Finding:
    return Finding(
        code, severity, f"Title of {code}", "Because.", ("seen",), Remedy(text, commands)
    )


@cache
def healthy() -> Facts:
    """A machine on which everything is known and right."""
    facts = wrong_torch()[0]
    known = json.loads(
        json.dumps(to_json(facts)),
        object_hook=lambda d: d | {"unknown": {}} if "unknown" in d else d,
    )
    return replace(from_json(known), root=False)


@cache
def wrong_torch() -> tuple[Facts, list[Finding]]:
    """A card for which the installed torch has no code."""
    return seen(pc("RTX 5090", torch="cu124"))


def seen(machine: Machine) -> tuple[Facts, list[Finding]]:
    with TemporaryDirectory() as folder:
        return look(machine, Path(folder))


# --- ticks ------------------------------------------------------------------------------------


def test_what_is_known_and_right_has_a_tick() -> None:
    text = report(healthy(), [])
    assert {line[0] for line in text.splitlines()[:8]} <= set("✓- ")


@pytest.mark.parametrize("name", SHOWN)
def test_an_area_that_could_not_be_looked_at_has_none(name: str) -> None:
    lost = replace(healthy(), **{name: None, "unknown": {name: "its probe failed"}})
    assert area(report(lost, []), name).startswith("? ")
    assert "1 area marked ? is not fully known" in " ".join(report(lost, []).split())


@pytest.mark.parametrize("name", SHOWN)
def test_an_area_of_which_one_value_is_unknown_has_none(name: str) -> None:
    value = getattr(healthy(), name)
    gap = replace(healthy(), **{name: replace(value, unknown={"some_value": "nobody says"})})
    text = report(gap, [])
    assert area(text, name).startswith("? ")
    assert "not known: some value" in " ".join(text.split())
    assert "nobody says" not in text and "some_value: nobody says" in report(gap, [], verbose=True)


def test_a_value_deep_inside_counts() -> None:
    nvidia = healthy().nvidia
    assert nvidia is not None
    gpu = replace(nvidia.gpus[0], unknown={"memory_total": "N/A"})
    assert list(unknowns(replace(nvidia, gpus=(gpu,)))) == [("memory_total", "N/A")]


def test_a_rule_that_crashed_takes_the_tick_of_its_area() -> None:
    crash = replace(
        finding("doctor.rule-failed", WARNING), evidence=("doctor.findings.rules.torch.code.arch",)
    )
    assert area(report(healthy(), [crash]), "torch").startswith("? ")
    assert area(report(healthy(), []), "torch").startswith("✓ ")


def test_every_rule_belongs_to_an_area() -> None:
    rules = {rule.__module__.removeprefix(OF_RULES).split(".")[0] for rule in RULES}
    assert rules - set(AREA_OF_RULES) == {"others"}, "what is of no family is in no area"
    assert set(AREA_OF_RULES) <= rules


def test_experiments_that_could_not_be_made_are_told() -> None:
    text = report(replace(healthy(), unknown={"deep": "torch hung"}), [])
    assert "? experiments: torch hung" in text


# --- the end ----------------------------------------------------------------------------------


def last(facts: Facts, *findings: Finding) -> str:
    return report(facts, list(findings)).splitlines()[-1]


def test_what_was_found_is_counted() -> None:
    found = [finding("torch.missing", ERROR), finding("host.shm-small", WARNING),
             finding("host.disk-full", WARNING), finding("rustbpe.missing", INFO)]  # fmt: skip
    assert "Found 1 error, 2 warnings, 1 note." in report(healthy(), found)
    assert "Found no errors, no warnings." in report(healthy(), [])


def test_the_end_is_apply_where_apply_mends_it() -> None:
    facts, findings = wrong_torch()
    text = report(facts, findings)
    assert re.search(
        r"^Next, on that machine: \S*nanochat-doctor apply --python /opt/venv/\S+$",
        text.splitlines()[-1],
    )
    assert "pip install" not in text


def test_what_apply_cannot_mend_comes_first() -> None:
    apply = finding("torch.missing", ERROR, invocation.command("apply"))
    driver = finding("cuda.driver-missing", ERROR, "sudo apt-get install -y nvidia-driver")
    assert last(healthy(), apply, driver) == "Next: sudo apt-get install -y nvidia-driver"
    prose = finding("cuda.uvm", ERROR, text="Restart the container.")
    assert last(healthy(), prose, apply) == "Next: Restart the container."
    several = finding("cuda.driver-missing", ERROR, "one", "two", text="Install it.")
    assert last(healthy(), several) == "Next: Install it. (2 commands above)"


def test_without_errors_it_goes_on_to_training(monkeypatch: pytest.MonkeyPatch) -> None:
    rust = healthy().rust
    assert rust is not None
    ready = replace(healthy(), rust=replace(rust, module_path="/x/rustbpe"))
    assert last(ready).endswith("nanochat-doctor speedrun")
    assert "nanochat-doctor apply" in last(replace(healthy(), rust=replace(rust, module_path=None)))
    assert "Nothing found that stops training here." in report(ready, [])


@pytest.mark.parametrize(
    "machine", [Machine(torch=None), atlas(npu=None), pc("RTX 5090", torch="cu124")]
)
def test_no_page_is_wider_than_its_paper(machine: Machine) -> None:
    """But for commands, which are there to be copied, and for single long words."""
    facts, findings = seen(machine)
    commands = {c for f in findings for c in f.remedy.commands}
    for line in report(facts, findings).splitlines():
        if line.strip() not in commands and not line.startswith("Next"):
            assert columns(line) <= 80 or len(line.split()) <= 2, line

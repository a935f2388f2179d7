"""The plan on a screen: what it holds, how much room it takes, and what -v adds."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cases.describe import atlas, cann85, pc
from machines import Machine
from verdicts import TABLES, look

from doctor.cli.pages.plan import SCREEN, _page, page, print_plan
from doctor.planner.commands import Target
from doctor.planner.decide import plan
from doctor.planner.steps import cost
from doctor.planner.terms.plan import Plan, Wishes
from doctor.text.paper import Paper, columns

MACHINES = {
    "wrong wheel": pc("RTX 5090", torch="cu124"),
    "eight GPUs": pc("8 * H100"),
    "NPUs": atlas(chips=cann85(), torch="2.9.0", npu=None),
    "CPU": Machine(torch=None),
    "no driver": pc("RTX 5090", driver=None, torch=None),
}


@cache
def planned(name: str, **wishes: object) -> Plan:
    with TemporaryDirectory() as folder:
        facts, _ = look(MACHINES[name], Path(folder))
    return plan(facts, TABLES, Wishes(**wishes), Target(".venv/bin/python", uv=True))  # type: ignore[arg-type]


def lines(made: Plan, width: int = 80, *, verbose: bool = False) -> list[str]:
    paper = Paper(io.StringIO(), width, False, False)
    return [*_page(made, paper, "Next: ./nanochat-doctor apply", verbose)]


@pytest.mark.parametrize("name", MACHINES)
def test_it_fits_a_screen(name: str) -> None:
    shown = lines(planned(name))
    assert len(shown) <= SCREEN
    assert shown[0].startswith("Route: ")
    made = planned(name)
    if made.route != "blocked":
        assert "Next: ./nanochat-doctor apply" in shown
        assert all(any(step.title in line for line in shown) for step in made.steps)
        assert any(line.startswith("  time:") for line in shown)


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("width", [60, 80, 100])
def test_it_keeps_to_the_width(name: str, width: int) -> None:
    made = planned(name)
    commands = {c for step in made.steps for c in step.commands}
    commands |= {c for finding in made.findings for c in finding.remedy.commands}
    for line in lines(made, width, verbose=True):
        whole = line.strip() in commands or line.startswith(("  env:", "  source:"))
        assert whole or columns(line) <= width, line


@pytest.mark.parametrize("name", MACHINES)
def test_commands_are_whole_and_only_with_verbose(name: str) -> None:
    made = planned(name)
    commands = [command for step in made.steps for command in step.commands]
    long, short = lines(made, 60, verbose=True), lines(made, 60)
    assert all(f"       {command}" in long for command in commands)
    assert not [c for c in commands if any(c in line for line in short)]
    assert not made.rejected or ("Turned down:" in long and "Turned down:" not in short)


def test_a_machine_that_needs_a_person_is_told_what_to_do() -> None:
    shown = "\n".join(lines(planned("no driver")))
    assert "Route: blocked." in shown and "[cuda.driver-missing]" in shown
    assert "apply" not in shown and "plan again" in shown


def test_remarks_that_do_not_fit_are_counted() -> None:
    made = replace(planned("wrong wheel"), notes=tuple(f"Remark {n}." for n in range(30)))
    shown = lines(made)
    assert len(shown) <= SCREEN and "! Remark 0." in shown
    assert any("more remarks: -v shows them" in line for line in shown)
    assert all(f"! Remark {n}." in lines(made, verbose=True) for n in range(30))


def test_long_titles_keep_the_columns_apart() -> None:
    made = planned("wrong wheel")
    title = "在 /数据/环境 安装 " + "a very long title " * 5
    made = replace(made, steps=(replace(made.steps[0], title=title.strip()), *made.steps[1:]))
    shown = lines(made, 60)
    rows = [line for line in shown if line.endswith((" min", " time"))]
    assert len({columns(row) for row in rows}) == 1 and columns(rows[0]) <= 60


def test_numbers_and_their_nouns() -> None:
    text = "\n".join(line for name in MACHINES for line in page(planned(name)))
    for slip in (
        "(1 passes)",
        "1 passes",
        "1 rows",
        "about under",
        "0.0 GB",
        " 0 MB",
        "1 steps",
        "about less",
    ):
        assert slip not in text
    assert cost(()) == "nothing to download, less than a minute"


def test_a_pipe_gets_no_colour() -> None:
    out = io.StringIO()
    print_plan(planned("CPU"), out, "Next: x")
    assert "\x1b" not in out.getvalue()

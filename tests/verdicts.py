"""What tests of findings share: look at a described machine, and the shape that any finding has."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cases import CASES
from machines import Machine, build

from doctor.fact import to_json
from doctor.facts import Facts, from_json
from doctor.findings.finding import SEVERITIES, Finding
from doctor.findings.rules.examine import examine
from doctor.knowledge.tables import Tables
from doctor.machine.system import System
from doctor.probe.survey import survey

TABLES = Tables()

REPEATABLE = {"cuda.oom", "npu.oom", "cuda.hardware-fault", "cuda.no-devices-visible",
              "npu.hardware-fault", "torch.arch-missing", "torch.abi-mismatch", "torch.version-conflict",
              "torch.ptxas-too-old", "npu.library-missing", "hub.lfs-pointer",
              "cuda.toolkit-too-old-for-arch", "npu.driver-cann-mismatch"}  # fmt: skip
"""Codes that a machine may earn more than once: for each card, chip, package or file."""

SLIP = re.compile(r"\bNone\b|  |\.\.|\{\w*\}|\[\]|\(\)|, \.|<[a-z]+ object")
"""Traces of a value that was not there, or was not put into words."""


def look(machine: Machine, folder: Path) -> tuple[Facts, list[Finding]]:
    """Facts and findings of a machine; a probe that raises is not hidden."""
    system = System(build(machine, folder), execute=True)
    try:
        facts = survey(system, TABLES, debug=True)
    finally:
        system.close()
    return facts, examine(facts, TABLES)


@functools.cache
def facts_of(name: str) -> Facts:
    """Facts of a machine of tests/cases: what one process of a run has surveyed, the others read."""
    kept = Path(os.environ["NANOCHAT_TEST_SHARED"]) / f"facts-{list(CASES).index(name)}.json"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            facts, _ = look(CASES[name].machine, Path(folder))
        fresh = kept.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(to_json(facts)))
        fresh.rename(kept)
    return from_json(json.loads(kept.read_text()))


def check_shapes(findings: Sequence[Finding]) -> None:
    """What holds for all findings of any machine."""
    keys = [(SEVERITIES.index(f.severity), TABLES.code(f.code)["order"]) for f in findings]
    assert keys == sorted(keys), "errors first, then in the order of the vocabulary"
    counts = Counter(f.code for f in findings)
    assert {code for code, count in counts.items() if count > 1} <= REPEATABLE
    for finding in findings:
        check_shape(finding)


def check_shape(finding: Finding) -> None:
    """Evidence, cause and cure are there, each of them whole."""
    said = f"{finding.code}: {finding.cause}"
    assert finding.code != "doctor.rule-failed", said
    assert finding.title == TABLES.code(finding.code)["title"]
    assert finding.evidence, said
    assert finding.cause.endswith("."), said
    assert finding.remedy.text.endswith("."), said
    for text in (finding.cause, finding.remedy.text, *finding.evidence, *finding.remedy.commands):
        assert text.strip() == text and "\n" not in text, said
        assert not SLIP.search(text.replace("&&", "")), text
    for command in finding.remedy.commands:
        assert shlex.split(command), said

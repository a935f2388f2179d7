"""Macs: check and plan say the same, and what they say is so."""

from __future__ import annotations

from dataclasses import replace

import pytest
from verdicts import TABLES, check_shape

from doctor.facts import Facts, Host, Python, Torch, TorchBuild
from doctor.findings.rules.examine import examine
from doctor.planner.commands import Target
from doctor.planner.decide import plan
from doctor.planner.terms.plan import Wishes

INTEL = Facts(
    host=Host(os="Darwin", arch="x86_64", cpu_model="Intel(R) Core(TM) i7-9750H", cores=6, memory_total=16384),
    python=Python(executable="/usr/local/bin/python3", version="3.12.4"),
    torch=Torch(),
)  # fmt: skip
TARGET = Target(".venv/bin/python")


@pytest.mark.parametrize("version", ["3.12.4", "3.13.1", "3.10.9"])
def test_an_intel_mac_is_told_what_can_be_done(version: str) -> None:
    """Linux wheels for the same processor are none for it, and no Python makes up for that."""
    python = Python(executable="/usr/local/bin/python3", version=version)
    facts = replace(INTEL, python=python)
    found = {finding.code: finding for finding in examine(facts, TABLES)}
    missing = found["torch.missing"]
    check_shape(missing)
    assert "2.2.2" in missing.remedy.text and "numpy below 2" in missing.remedy.text
    assert "Linux container" in missing.remedy.text and missing.remedy.commands == ()
    assert not {"host.python-too-new", "host.python-too-old"} & found.keys()
    made = plan(facts, TABLES, Wishes(), TARGET)
    assert made.route == "blocked" and made.steps == ()
    assert made.reason == missing.remedy.text


def test_a_python_for_intel_on_apple_silicon() -> None:
    assert INTEL.host is not None
    facts = replace(INTEL, host=replace(INTEL.host, cpu_model="Apple M2 Pro"))
    missing = next(f for f in examine(facts, TABLES) if f.code == "torch.missing")
    assert "Python for arm64" in missing.remedy.text and "2.2.2" not in missing.remedy.text
    assert plan(facts, TABLES, Wishes(), TARGET).reason == missing.remedy.text


def test_apple_silicon_gets_its_wheel_from_both() -> None:
    host = Host(os="Darwin", arch="arm64", cpu_model="Apple M2", cores=8, memory_total=16384)
    facts = replace(INTEL, host=host)
    missing = next(f for f in examine(facts, TABLES) if f.code == "torch.missing")
    made = plan(facts, TABLES, Wishes(), TARGET)
    assert made.route == "mps-wheel" and made.torch is not None and made.torch.version
    assert made.torch.version in missing.remedy.text


def test_the_last_torch_for_intel_macs_is_kept_with_a_word() -> None:
    build = TorchBuild(
        path="/opt/torch", version="2.2.2", flavour="cpu", built=True, cpu_arch="x86_64"
    )
    facts = replace(INTEL, torch=Torch(installed=build, installed_by="wheel"))
    made = plan(facts, TABLES, Wishes(), TARGET)
    assert made.route == "keep" and any("older than 2.6" in note for note in made.notes)

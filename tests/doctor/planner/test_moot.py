"""Wishes that cannot apply are refused or named, and the reason for no wheel is the true one."""

from __future__ import annotations

import pytest
from machines.describe import Machine, nvidia

from doctor.errors import DoctorError
from doctor.planner.moot import notes
from doctor.planner.terms.plan import TorchChoice, Wishes
from doctor.planner.terms.question import Decision
from planner.test_routes import planned


def test_an_architecture_on_a_machine_without_a_gpu() -> None:
    with pytest.raises(
        DoctorError, match=r"--arch 12\.0 asks for code for an NVIDIA GPU.*cpu-wheel"
    ):
        planned(Machine(), archs=("12.0",))


def test_without_libuv_by_a_wheel() -> None:
    for machine in (Machine(), Machine(nvidia=nvidia("RTX 4090"))):
        said = planned(machine, libuv=False).notes
        assert any("--no-libuv is not followed" in note for note in said), said
    assert not any("libuv" in note for note in planned(Machine(), libuv=True).notes)


def test_nightly_on_a_machine_without_a_gpu() -> None:
    assert any(
        "--channel nightly is not followed" in n
        for n in planned(Machine(), channel="nightly").notes
    )


def test_libuv_on_a_mac() -> None:
    decision = Decision("mps-wheel", "mps", "", TorchChoice(version="2.15.0", libuv=True))
    assert list(notes(Wishes(libuv=True), decision)) and not list(notes(Wishes(), decision))


def test_why_there_is_no_wheel_is_told_truly() -> None:
    """The C library was blamed, though it was the architecture that was asked for."""
    plan = planned(Machine(nvidia=nvidia("RTX 4090")), archs=("6.1", "12.0"))
    reasons = {r.route: r.reason for r in plan.rejected}
    assert "lack code for 6.1 and 12.0, which was asked for" in reasons["stable-wheel"], reasons
    assert "C library" not in reasons["stable-wheel"]

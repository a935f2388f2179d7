"""Does this build run on this card? Ninety real cards against real wheels' architectures.

The oracle (data/cards.toml) was worked out by hand from CUDA's rules, not from our tables.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machines import Machine, Torch, build, even

from doctor.facts import TorchBuild
from doctor.knowledge import compat
from doctor.knowledge.compat import Runs
from doctor.knowledge.tables import Tables
from doctor.machine.system import System
from doctor.probe.survey import survey
from doctor.text.toml import tomllib

TABLES = Tables()
DATA = tomllib.loads(
    (Path(__file__).parents[1] / "data" / "cards.toml").read_text(encoding="utf-8")
)
BUILDS = {row["key"]: row for row in DATA["build"]}
WORKS = (Runs.NATIVE, Runs.PTX)


def cuda_of(key: str) -> str:
    """`2.9-cu128-x86_64` -> `12.8`."""
    digits = key.split("-")[1].removeprefix("cu")
    return f"{digits[:-1]}.{digits[-1]}"


def verdicts() -> Iterator[Any]:
    """Card, build, and whether the one runs on the other."""
    for card in DATA["card"]:
        for expected, keys in ((True, card["runs"]), (False, card["no_code"])):
            for key in keys:
                yield pytest.param(card, key, expected, id=f"{card['name']}, {key}, {card['pci']}")


VERDICTS = list(verdicts())


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TorchBuild]:
    """Each build as it is read from a tree where it is installed."""

    @functools.cache
    def read(key: str) -> TorchBuild:
        row = BUILDS[key]
        sass, ptx = (even(" ".join(row[kind])) for kind in ("sass", "ptx"))
        wheel = Torch(
            version=f"{row['torch']}+{key.split('-')[1]}", cuda=cuda_of(key), sass=sass, ptx=ptx
        )
        machine = Machine(torch=wheel, arch=row["cpu_arch"])
        system = System(build(machine, tmp_path_factory.mktemp("build")), execute=True)
        found = survey(system, TABLES, areas=["torch"])
        system.close()
        assert found.torch and found.torch.installed
        return found.torch.installed

    return {key: read(key) for key in BUILDS}


@pytest.mark.parametrize(("card", "key", "expected"), VERDICTS)
def test_installed_build(
    card: dict[str, Any], key: str, expected: bool, installed: dict[str, TorchBuild]
) -> None:
    assert (compat.build_runs(installed[key], card["cc"], TABLES) in WORKS) is expected


@pytest.mark.parametrize(("card", "key", "expected"), VERDICTS)
def test_wheel_of_the_tables(card: dict[str, Any], key: str, expected: bool) -> None:
    release, variant, cpu_arch = key.split("-", 2)
    (row,) = (
        row
        for row in TABLES.rows("torch", "wheel")
        if (row["torch"], row["variant"], row["cpu_arch"]) == (release, variant, cpu_arch)
    )
    runs = compat.code_runs(card["cc"], row["cuda"], row["sass"], row["ptx"], (), TABLES)
    assert (runs in WORKS) is expected


@pytest.mark.parametrize("card", [c for c in DATA["card"] if c["pci"]], ids=lambda c: c["name"])
def test_card_on_the_bus(card: dict[str, Any]) -> None:
    assert TABLES.nvidia_chip(card["pci"]).get("compute_capability") == card["cc"]


def wheel_of(cc: str, driver: str, python: str = "3.12", cpu_arch: str = "x86_64") -> str:
    """Version and variant of the wheel that is chosen for a card."""
    found = compat.fitting_wheels(
        TABLES, python=python, cpu_arch=cpu_arch, glibc="2.39", devices=[cc], driver=driver
    )
    return f"{found[0].version} {found[0].variant}" if found else ""


@pytest.mark.parametrize(
    ("cc", "driver", "expected"),
    [
        ("8.9", "580.95.05", "2.15.0 cu132"),
        ("8.9", "570.133.07", "2.14.1 cu126"),
        ("8.9", "535.183.01", "2.14.1 cu126"),
        ("8.9", "525.60.13", "2.14.1 cu126"),
        ("8.9", "525.60", "2.14.1 cu126"),
        ("8.0", "515.105.01", "2.7.1 cu118"),
        ("6.1", "580.95.05", "2.14.1 cu126"),
        ("6.1", "470.256.02", "2.7.1 cu118"),
        ("7.0", "580.95.05", "2.14.1 cu126"),
        ("3.7", "470.256.02", "2.7.1 cu118"),
        ("3.5", "470.256.02", ""),
        ("12.0", "580.95.05", "2.15.0 cu132"),
        ("12.0", "570.133.07", "2.1[0-9].0 cu12[89]"),
        ("12.0", "560.35.03", ""),
        ("10.0", "550.144.03", ""),
    ],
)
def test_wheel_for_a_card_and_a_driver(cc: str, driver: str, expected: str) -> None:
    assert re.fullmatch(expected, wheel_of(cc, driver))


@pytest.mark.parametrize(
    ("driver", "cuda", "cc", "expected"),
    [
        ("535.183.01", "12.8", "8.9", True),
        ("525.60.13", "12.9", "8.0", True),
        ("525.60", "12.8", "8.0", True),
        ("525.53", "12.8", "8.0", False),
        ("520.61.05", "12.1", "8.9", False),
        ("535.183.01", "13.0", "8.9", False),
        ("575.64.03", "13.0", "8.9", False),
        ("580.65.06", "13.2", "8.9", True),
        ("580.95.05", "13.0", "12.0", True),
        ("565.57.01", "12.8", "12.0", False),
        ("570.26", "12.8", "12.0", True),
        ("470.256.02", "11.8", "6.1", True),
    ],
)
def test_driver_runs_cuda(driver: str, cuda: str, cc: str, expected: bool) -> None:
    assert compat.driver_runs(driver, cuda, [cc], TABLES) is expected


@pytest.mark.parametrize(
    ("code", "device", "expected"),
    [
        ("8.6", "8.9", True),
        ("8.0", "8.6", True),
        ("8.6", "8.0", False),
        ("9.0a", "9.0", True),
        ("9.0a", "9.1", False),
        ("10.0", "10.3", True),
        ("10.0", "12.0", False),
        ("12.0", "12.1", True),
        ("8.0", "8.7", False),
        ("7.0", "7.2", False),
        ("8.7", "8.7", True),
        ("10.0", "11.0", False),
        ("", "9.0", False),
    ],
)
def test_machine_code_runs(code: str, device: str, expected: bool) -> None:
    assert (compat.sass_runs(code, device, "12.8", TABLES) if code else False) is expected


def test_ptx_runs_on_everything_newer() -> None:
    assert compat.ptx_runs("8.0", "12.1", TABLES)
    assert compat.ptx_runs("9.0", "9.0", TABLES)
    assert not compat.ptx_runs("9.0", "8.9", TABLES)
    assert not compat.ptx_runs("9.0a", "10.0", TABLES)


def test_unreadable_code_is_no_verdict() -> None:
    assert compat.build_runs(TorchBuild(path="/torch"), "8.9", TABLES) is None

"""Which driver is advised for a card on a distribution: every way of build/drivers.toml, and cards that go apart."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

import pytest
from facts_of_machines import HOST, PYTHON, with_card
from verdicts import SLIP, TABLES, check_shapes

from doctor.facts import Facts, Nvidia, PciDevice
from doctor.findings.context import Context
from doctor.findings.rules.examine import examine
from doctor.findings.rules.nvidia.driver_install import DriverAdvice, advice
from doctor.knowledge.drivers import refusals, serving


def advised(distro: str, *capabilities: str, like: str = "", arch: str = "x86_64") -> DriverAdvice:
    name, _, version = distro.partition(":")
    host = replace(
        HOST,
        distro_id=name,
        distro_version=version or None,
        distro_like=tuple(like.split()),
        arch=arch,
    )
    devices = tuple(
        PciDevice(
            address=f"0000:0{i}:00.0", vendor_id="0x10de", device_id="0x1", compute_capability=cc
        )
        for i, cc in enumerate(capabilities)
    )
    facts = Facts(host=host, python=PYTHON, nvidia=Nvidia(pci_devices=devices))
    found = advice(Context(facts, TABLES))
    for text in (found.text, *found.commands):
        assert not SLIP.search(text.replace("&&", "")) and "{" not in text, text
    assert all(shlex.split(command) for command in found.commands)
    return found


ADVICE = [
    # distribution, cards, what the commands or the text must say, what they must not
    (
        "debian:12",
        "12.0",
        "repos/debian12/x86_64/cuda-keyring.*nvidia-open",
        "nvidia-driver firmware",
    ),
    (
        "debian:13",
        "12.0",
        "repos/debian13/x86_64/cuda-keyring.*nvidia-open",
        "nvidia-driver firmware",
    ),
    ("debian:13", "6.1", "nvidia-driver-pinning-580.*cuda-drivers", "nvidia-open"),
    ("debian:12", "3.7", "nvidia-tesla-470-driver", "580|nvidia-open"),
    ("ubuntu:22.04", "8.6", "nvidia-driver-580-open", "ubuntu-drivers"),
    ("ubuntu:24.04", "6.1", r"nvidia-driver-580$", "open$"),
    ("ubuntu:26.04", "12.0", "nvidia-driver-580-open", "nvidia-driver-580$"),
    ("ubuntu:24.04", "3.5", "nvidia-driver-470$", "580"),
    ("ubuntu:20.04", "12.0", "repos/ubuntu2004/.*nvidia-open", "nvidia-driver-5"),
    ("ubuntu:24.04", "10.7", "repos/ubuntu2404/.*nvidia-open", "nvidia-driver-580"),
    ("linuxmint:22", "8.9", "ubuntu-drivers install", "cuda-keyring"),
    ("fedora:42", "12.0", "kmod_nvidia_open 1.*akmod-nvidia xorg", "580xx"),
    ("fedora:42", "6.1", "akmod-nvidia-580xx", "kmod_nvidia_open"),
    ("fedora:42", "3.5", "akmod-nvidia-470xx", "580xx"),
    ("rhel:9.6", "9.0", "nvidia-driver:open-dkms.*nvidia-open", "cuda-drivers"),
    ("rocky:8.10", "7.0", "nvidia-driver:580-dkms.*cuda-drivers", "nvidia-open"),
    (
        "almalinux:10.0",
        "6.0",
        r"versionlock '\*nvidia\*580\*'.*cuda-drivers",
        "nvidia-open|module enable",
    ),
    ("almalinux:10.0", "12.0", "cuda-rhel10.repo.*nvidia-open", "module enable"),
    ("amzn:2023", "9.0", "cuda-amzn2023.repo.*nvidia-open", "cuda-drivers"),
    ("amzn:2023", "7.0", "nvidia-driver:580-dkms", "nvidia-open"),
    ("azurelinux:3.0", "10.0", "cuda-azl3.repo.*nvidia-open", "apt-get"),
    ("opensuse-leap:15.6", "8.6", "nvidia-open-driver-G06", "G05"),
    ("opensuse-tumbleweed:20261101", "6.1", "nvidia-driver-G06-kmp-default", "open-driver"),
    ("sles:15.6", "9.0", "SUSEConnect", "apt-get"),
    ("arch", "12.0", "pacman .*nvidia-open nvidia-utils", "aur"),
    ("arch", "6.1", "aur.archlinux.org/nvidia-580xx-utils.*makepkg", "nvidia-open"),
    ("arch", "3.5", "nvidia-470xx-utils", "nvidia-open|580"),
    ("endeavouros", "7.0", "nvidia-580xx-utils", "nvidia-open"),
    ("manjaro", "6.1", "mhwd", "aur"),
    ("cachyos", "6.1", "chwd", "aur"),
    ("nixos:25.05", "6.1", "legacy_580.*nixos-rebuild", "hardware.nvidia.open = true"),
    ("nixos:25.05", "12.0", "hardware.nvidia.open = true", "legacy"),
    ("alpine:3.22", "8.6", "musl", "apk add"),
    ("exherbo", "6.1", "branch 580.*kernel-module-type=proprietary", "kernel-module-type=open"),
    ("exherbo", "12.0", "kernel-module-type=open", "proprietary"),
    ("", "2.1", "390", "580|nvidia-open"),
]
LIKE = {"rocky": "rhel centos fedora", "almalinux": "rhel centos fedora", "linuxmint": "ubuntu debian",
        "endeavouros": "arch", "manjaro": "arch", "cachyos": "arch", "opensuse-leap": "suse opensuse"}  # fmt: skip


@pytest.mark.parametrize(
    ("distro", "cc", "says", "never"), ADVICE, ids=lambda value: str(value)[:30]
)
def test_advice_for_a_card(distro: str, cc: str, says: str, never: str) -> None:
    found = advised(distro, cc, like=LIKE.get(distro.partition(":")[0], ""))
    text = " ".join((found.text, *found.commands))
    assert re.search(says, text), text
    commands = " ".join(found.commands)
    assert not re.search(never, commands or found.text), commands


def test_every_way_is_somebodys() -> None:
    """A row that no card of the tables reaches on its own distribution would never be read."""
    reached = set()
    for row in TABLES.rows("drivers", "install"):
        for name in row["id"]:
            for cc in ("2.1", "3.7", "6.1", "8.6", "10.7", "12.0"):
                reached.add(advised(name.replace("*", "exherbo"), cc).commands)
                reached.add(advised(name.replace("*", "exherbo"), cc).text)
    for row in TABLES.rows("drivers", "install"):
        last = row["commands"][-1] if row["commands"] else row["text"]
        assert any(last in found or (found and last in found[-1]) for found in reached), row


def test_arm_servers_have_their_own_repository() -> None:
    assert "repos/debian12/sbsa/" in advised("debian:12", "9.0", arch="aarch64").commands[0]


@pytest.mark.parametrize(
    ("cards", "first", "last", "modules"),
    [
        (["8.6"], "455", None, ("open", "proprietary")),
        (["7.5", "6.1"], "410", "580", ("proprietary",)),
        (["12.0", "6.1"], "570", "580", ()),
        (["3.7", "9.0"], "520", "470", ("proprietary",)),
        (["10.7"], "615", None, ("open",)),
        (["2.0"], "195", "390", ("proprietary",)),
        (["99.0"], None, None, ("open", "proprietary")),
    ],
)
def test_what_serves_cards_together(
    cards: list[str], first: str | None, last: str | None, modules: tuple[str, ...]
) -> None:
    found = serving(cards, TABLES)
    assert (found.first, found.last, found.modules) == (first, last, modules)
    assert found.possible == (bool(modules) and cards != ["3.7", "9.0"])


@pytest.mark.parametrize(
    ("cc", "driver", "opened", "reason"),
    [
        ("6.1", "595.71.05", None, "580 was the last for Pascal"),
        ("7.0", "590.44.01", False, "580 was the last for Volta"),
        ("6.1", "580.95.05", True, "open kernel module runs nothing before Turing"),
        ("12.0", "580.95.05", False, "proprietary kernel module does not run Blackwell"),
        ("12.0", "550.163.01", True, "570 was the first"),
        ("3.7", "535.183.01", False, "470 was the last for Kepler"),
        ("6.1", "580.95.05", False, None),
        ("7.5", "615.71.09", True, None),
        ("8.7", "540.4.0", True, None),
        ("11.0", "580.00", True, None),
    ],
)
def test_why_a_driver_does_not_serve_a_card(
    cc: str, driver: str, opened: bool | None, reason: str | None
) -> None:
    found = next(refusals(cc, driver, opened, TABLES), None)
    assert (reason in (found or "")) if reason else found is None


@pytest.mark.parametrize("device", TABLES.rows("pci", "nvidia"), ids=lambda row: str(row["first"]))
def test_every_chip_of_the_bus_gets_advice(device: dict[str, str]) -> None:
    found = advised("debian:13", *([device["cc"]] if "cc" in device else []))
    assert found.text


def test_windows_and_hosts_of_containers_have_the_driver() -> None:
    facts = with_card("8.6", None)
    in_wsl = replace(facts, host=replace(HOST, wsl=True))
    assert advice(Context(in_wsl, TABLES)) == DriverAdvice(
        "Install or update the NVIDIA driver in Windows, and none in here."
    )
    boxed = advice(Context(replace(facts, host=replace(HOST, container="docker")), TABLES))
    assert "on the host" in boxed.text and not boxed.commands


@pytest.mark.parametrize("row", TABLES.rows("pci", "other"), ids=lambda row: str(row["name"]))
def test_every_accelerator_of_another_maker_is_named(row: dict[str, str]) -> None:
    from doctor.facts import OtherAccelerator

    device = OtherAccelerator(
        address="0000:0a:00.0", vendor_id=row["vendor"], device_id=row["first"],
        vendor=str((TABLES.vendor(row["vendor"]) or {})["name"]), name=row["name"],
        integrated=bool(row.get("integrated")),
    )  # fmt: skip
    facts = Facts(host=replace(HOST, accelerators=(device,)), python=PYTHON, nvidia=Nvidia())
    findings = [f for f in examine(facts, TABLES) if f.code == "host.accelerator-unsupported"]
    check_shapes(findings)
    assert row["name"] in findings[0].cause
    assert findings[0].severity == ("info" if device.integrated else "warning")

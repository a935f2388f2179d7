"""What torch asks for against what is installed: specifiers, and whose bytes lie in a shared file."""

from __future__ import annotations

import base64
import hashlib
import sys
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from doctor.machine.pyenv import PythonEnvironment
from doctor.machine.system import System
from doctor.probe.torch import packages

SITE = "/opt/venv/lib/python3.12/site-packages"
FILE = f"{SITE}/nvidia/nccl/lib/libnccl.so.2"

VERSIONS = (
    "2.27.5",
    "2.27",
    "2.27.5.0",
    "2.28",
    "3",
    "13.4.1.3",
    "13.4.1.4",
    "3.9.2",
    "3.10",
    "0.8.1",
)
SPECIFIERS = (
    "==2.27.5",
    "==2.27.*",
    "==13.4.1.3.*",
    "~=3.9.0",
    ">=2.27,<3",
    "<14,>=13.0.3",
    "!=2.28",
    "==3",
    "",
)


@pytest.mark.parametrize("specifier", SPECIFIERS)
def test_plain_specifiers_mean_what_they_do_to_packaging(specifier: str) -> None:
    found = {version for version in VERSIONS if packages._meets(version, specifier)}
    assert found == set(SpecifierSet(specifier).filter(VERSIONS))


@pytest.mark.parametrize(
    ("version", "specifier", "meets"),
    [
        ("3.5.1+gitabc", "==3.5.1+gitabc", True),
        ("3.5.1+cu128", "==3.5.1", True),
        ("3.5.1rc1", "==3.5.1", False),
        ("3.5.1.post1", "==3.5.1", False),
        ("3.5.1", "=== something odd", True),
    ],
)
def test_others_are_left_to_packaging(version: str, specifier: str, meets: bool) -> None:
    """What nobody can read is no reason for a finding."""
    assert packages._meets(version, specifier) is meets


def test_packaging_is_not_loaded_for_plain_ones() -> None:
    loaded = set(sys.modules)
    assert packages._meets("2.27.5", "==2.27.5") and not packages._meets("2.27.4", "~=2.27.5")
    assert not {name for name in set(sys.modules) - loaded if name.startswith("packaging")}


def environment(
    root: Path, records: dict[str, str], content: bytes
) -> tuple[System, PythonEnvironment]:
    """torch of CUDA 13 with its NCCL, another NCCL, and one file."""
    files = {
        f"{SITE}/torch-2.9.1.dist-info/METADATA": b"Name: torch\nRequires-Dist: nvidia-nccl-cu13==2.27.5\n",
        FILE: content,
    }
    for name, line in records.items():
        files[f"{SITE}/{name}.dist-info/RECORD"] = f"nvidia/nccl/lib/libnccl.so.2,{line}\n".encode()
        files[f"{SITE}/{name}.dist-info/METADATA"] = b""
    for path, data in files.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    system = System(root)
    return system, PythonEnvironment(system, "3.12", [], [SITE])


def recorded(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    return f"sha256={digest},{len(content)}"


OURS, THEIRS, LONGER, NOBODYS = b"of 13", b"of 12", b"of CUDA 12", b"damaged, both"


@pytest.mark.parametrize(
    ("theirs", "content", "holds"),
    [
        (LONGER, OURS, "silent"),
        (LONGER, LONGER, "nvidia-nccl-cu12"),
        (LONGER, NOBODYS, None),
        (THEIRS, OURS, "silent"),
        (THEIRS, THEIRS, "nvidia-nccl-cu12"),
        (OURS, OURS, "silent"),
    ],
    ids=["ours", "theirs", "neither", "ours, of one size", "theirs, of one size", "the same file"],
)
def test_whose_bytes_lie_there(
    tmp_path: Path, theirs: bytes, content: bytes, holds: str | None
) -> None:
    records = {
        "nvidia_nccl_cu13-2.27.5": recorded(OURS),
        "nvidia_nccl_cu12-2.27.3": recorded(theirs),
    }
    system, env = environment(tmp_path, records, content)
    found = packages.read(system, env, "x86_64")
    assert not found.unmet
    assert [item.holds for item in found.shared] == ([] if holds == "silent" else [holds])
    assert found.trusts(system, f"{SITE}/torch/lib/../../nvidia/nccl/lib/libnccl.so.2") is (
        holds == "silent"
    )


def test_a_library_of_another_size_is_not_trusted(tmp_path: Path) -> None:
    system, env = environment(tmp_path, {"nvidia_nccl_cu13-2.27.5": recorded(OURS)}, LONGER)
    assert not packages.read(system, env, "x86_64").trusts(system, FILE)

"""Which CUDA a PyTorch takes, for which architectures: what is advised where none is there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from doctor.compile.torch.product import Wanted, shortcomings
from doctor.errors import WrongUsage
from doctor.facts import ArchCode, TorchBuild
from doctor.knowledge.tables import Tables
from doctor.knowledge.versions import older
from doctor.planner.build.draft import draft
from doctor.planner.build.obstacles import obstacles
from doctor.planner.build.takes import advise, released_with, torch_that_takes
from doctor.planner.build.wish import canonical_archs
from doctor.planner.terms.plan import Wishes
from torch_source.test_planning import machine, toolkit

TABLES = Tables()


@pytest.mark.parametrize(
    ("archs", "torch", "driver", "cuda"),
    [
        (["6.1"], "2.15.0", None, "12.9"),
        (["6.1"], "2.14.0", None, "12.6"),
        (["7.5"], "2.15.0", None, "13.2"),
        (["8.0"], "2.15.0", None, "13.2"),
        (["8.0"], "2.15.0", "535.183.01", "12.9"),
        (["12.0"], "2.15.0", None, "13.2"),
        (["12.0f"], "2.15.0", "570.86", "12.9"),
        (["10.7"], "2.15.0", None, "13.5"),
        (["6.1", "12.0"], "2.15.0", None, "12.9"),
        (["5.2"], "2.6.0", None, "12.6"),
        (["3.5"], "2.8.0", None, "11.8"),
        (["9.0"], "2.6.0", None, "12.6"),
        (["8.6"], None, None, "13.5"),
        (["3.5"], "2.15.0", None, None),
        (["6.1", "10.7"], "2.15.0", None, None),
        (["12.0"], "2.15.0", "470.256.02", None),
    ],
)  # fmt: skip
def test_the_toolkit_for_a_pytorch(
    archs: list[str], torch: str | None, driver: str | None, cuda: str | None
) -> None:
    advice = advise(archs, torch, driver, TABLES)
    assert (advice.cuda if advice else None) == cuda


@pytest.mark.parametrize("row", TABLES.rows("cuda", "arch"), ids=lambda row: row["cc"])
def test_no_architecture_gets_a_cuda_that_its_pytorch_refuses(row: dict[str, str]) -> None:
    """All of them once advised what came out with the card: CUDA 8 for a GTX 1080."""
    for release in TABLES.rows("torch", "release"):
        advice = advise([row["cc"]], release["torch"], None, TABLES)
        if advice is None:
            continue
        assert row["cc"] in TABLES.toolkit_archs(advice.cuda)
        wheels = released_with(release["torch"], TABLES)
        assert not wheels or int(advice.cuda.split(".")[0]) <= int(wheels[0].split(".")[0])
        assert not older(advice.cuda, "12.6") or older(release["torch"], "2.14")


@pytest.mark.parametrize(
    ("arch", "command", "said"),
    [("6.1", "cuda-toolkit-12-9", "CUDA 12.9, the last that does"), ("7.5", "cuda-toolkit-13-2", "12.6 or newer"),
     ("8.0", "cuda-toolkit-13-2", "released with 13.2")],
)  # fmt: skip
def test_what_is_said_where_there_is_no_nvcc(arch: str, command: str, said: str) -> None:
    facts = machine()
    chosen = draft(facts, TABLES, Wishes(archs=(arch,)))
    found = next(
        f for f in obstacles(facts, TABLES, chosen, "2.15.0") if f.code == "cuda.toolkit-missing"
    )
    assert command in found.remedy.commands[-1] and said in found.remedy.text, found.remedy


def test_an_older_pytorch_is_named_where_the_new_one_takes_no_cuda_for_the_card() -> None:
    facts = machine()
    chosen = draft(facts, TABLES, Wishes(archs=("3.7",)))
    found = next(iter(obstacles(facts, TABLES, chosen, "2.15.0")))
    assert found.code == "cuda.toolkit-mismatch" and "PyTorch 2.15 takes" in found.cause
    assert (
        torch_that_takes(["3.7"], None, TABLES) == "2.8"
        and "PyTorch 2.8 is the newest" in found.remedy.text
    )


def test_a_toolkit_that_the_pytorch_refuses() -> None:
    """nvcc knows the card, and CMake ends after the clone: PyTorch requires CUDA 12.6 or above."""
    facts = machine("8.0", toolkits=[toolkit("12.4")])
    chosen = draft(facts, TABLES, Wishes(), torch="2.15.0")
    found = [f for f in obstacles(facts, TABLES, chosen, "2.15.0") if f.code.startswith("cuda.")]
    assert [f.code for f in found] == ["cuda.toolkit-mismatch"] and "12.6 or newer" in found[
        0
    ].cause
    assert list(obstacles(facts, TABLES, chosen, "2.9.0")) == []
    both = machine("8.0", toolkits=[toolkit("12.4"), toolkit("12.9")])
    assert draft(both, TABLES, Wishes(), torch="2.15.0").toolkit == toolkit("12.9")


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("12.0f", "12.0f"),
        ("sm_120f", "12.0f"),
        ("100f", "10.0f"),
        ("10.3f+PTX", "10.3f+PTX"),
        ("120a", "12.0a"),
    ],
)
def test_targets_of_a_family(word: str, wanted: str) -> None:
    assert canonical_archs([word], TABLES, native=[], known=()) == (wanted,)


@pytest.mark.parametrize("word", ["9.0f", "8.6a", "8.9f", "12.0b", "sm_75a", "12.0ff"])
def test_endings_that_there_are_none_of(word: str) -> None:
    with pytest.raises(WrongUsage, match="is no GPU architecture"):
        canonical_archs([word], TABLES, native=[], known=())


def test_a_family_against_toolkit_and_pytorch() -> None:
    facts = machine("12.0", toolkits=[toolkit("12.8")])
    chosen = draft(facts, TABLES, Wishes(archs=("12.0f",)))
    found = {f.code: f for f in obstacles(facts, TABLES, chosen, "2.8.0")}
    assert "12.0f" in found["cuda.toolkit-too-old-for-arch"].cause
    assert (
        "came with 2.9" in found["build.failed"].cause
        and "12.0, or" in found["build.failed"].remedy.text
    )
    facts = machine("12.0", toolkits=[toolkit("13.2")])
    chosen = draft(facts, TABLES, Wishes(archs=("12.0f",)))
    assert list(obstacles(facts, TABLES, chosen, "2.15.0")) == []


def test_code_for_a_family_bears_its_first_architecture_s_name() -> None:
    """So nvcc 13.2 writes it: sm_120f is read as 12.0."""
    code = ArchCode(arch="12.0", sass=477, ptx=0)
    build = TorchBuild(path="/x", built=True, flavour="cuda", nccl=True, archs=(code,), libuv=False)
    build = replace(build, archs_covered=("12.0",))
    assert list(shortcomings(build, Wanted(("12.0f",), False))) == []


@pytest.mark.parametrize(
    ("distro", "version", "arch", "first"),
    [
        ("ubuntu", "24.04", "x86_64", "repos/ubuntu2404/x86_64/cuda-keyring_1.1-1_all.deb"),
        ("debian", "12", "aarch64", "repos/debian12/sbsa/cuda-keyring_1.1-1_all.deb"),
        ("fedora", "42", "x86_64", "repos/fedora42/x86_64/cuda-fedora42.repo"),
        ("rocky", "9.5", "x86_64", "cuda-rhel$(rpm -E %rhel).repo"),
        ("amzn", "2023", "x86_64", "repos/amzn2023/x86_64/cuda-amzn2023.repo"),
        ("opensuse-leap", "15.6", "x86_64", "repos/sles15/x86_64/cuda-sles15.repo"),
    ],
)
def test_nvidia_s_repository_comes_before_its_packages(
    distro: str, version: str, arch: str, first: str
) -> None:
    """The command alone ends with `Unable to locate package cuda-toolkit-13-2`."""
    facts = machine(distro_id=distro, distro_version=version, arch=arch)
    chosen = draft(facts, TABLES, Wishes(archs=("12.0",)))
    found = next(
        f for f in obstacles(facts, TABLES, chosen, "2.15.0") if f.code == "cuda.toolkit-missing"
    )
    assert first in found.remedy.commands[0] and "cuda-toolkit-13-2" in found.remedy.commands[-1]
    assert not any("{" in command for command in found.remedy.commands)

"""The fatbin reader against a writer of the same layout, and against damage."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from elf_files import (
    ARCH_SPECIFIC,
    PTX,
    SASS,
    Code,
    Watched,
    build_library,
    container,
    elf_around,
    fatbin,
    needs_gcc,
    patched,
    with_section,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from doctor.machine import fatbin as reader
from doctor.machine.elf import Elf

WHEEL = [Code(75), Code(80), Code(86), Code(90), Code(100), Code(120), Code(120, PTX)]


def read(*sections: tuple[str, bytes]) -> reader.Fatbin:
    return reader.read(Elf(elf_around(sections)))


def counted(*codes: Code) -> Counter[tuple[str, int]]:
    return Counter(code.key for code in codes)


@pytest.mark.parametrize(
    ("code", "key"),
    [
        (Code(50), ("5.0", SASS)),
        (Code(89), ("8.9", SASS)),
        (Code(90, flags=ARCH_SPECIFIC), ("9.0a", SASS)),
        (Code(90, flags=ARCH_SPECIFIC | 0x11), ("9.0a", SASS)),
        (Code(100, flags=0x41), ("10.0", SASS)),
        (Code(121), ("12.1", SASS)),
        (Code(120, PTX), ("12.0", PTX)),
        (Code(90, PTX, ARCH_SPECIFIC), ("9.0a", PTX)),
        (Code(75, size=0), ("7.5", SASS)),
    ],
)
def test_one_entry(code: Code, key: tuple[str, int]) -> None:
    found = read((".nv_fatbin", fatbin([code])))
    assert (found.counts, found.damaged) == (Counter({key: 1}), False)


def test_a_wheel_counts_kernel_by_kernel() -> None:
    containers = [WHEEL] * 40 + [[Code(89)], [Code(90, flags=ARCH_SPECIFIC)]]
    found = read((".text", b"\x90" * 99), (".nv_fatbin", fatbin(*containers)))
    assert found.counts == Counter({c.key: 40 for c in WHEEL} | {("8.9", 2): 1, ("9.0a", 2): 1})
    assert not found.damaged


@pytest.mark.parametrize("padding", [0, 4, 8, 16, 4096])
def test_zeros_between_containers_are_no_damage(padding: int) -> None:
    found = read((".nv_fatbin", bytes(padding) + fatbin([Code(80)], [Code(90)], padding=padding)))
    assert (found.counts, found.damaged) == (counted(Code(80), Code(90)), False)


def test_relocatable_code_counts_only_where_there_is_no_other() -> None:
    """No driver loads it; cuobjdump lists it in the same case."""
    relocatable, loadable = fatbin([Code(80)]), fatbin([Code(90)])
    both = read(("__nv_relfatbin", relocatable), (".nv_fatbin", loadable))
    assert (both.counts, both.damaged) == (counted(Code(90)), False)
    alone = read(("__nv_relfatbin", relocatable))
    assert (alone.counts, alone.damaged) == (counted(Code(80)), False)


@pytest.mark.parametrize("sections", [[], [(".rodata", fatbin([Code(80)]))], [(".nv_fatbin", b"")]])
def test_a_library_without_gpu_code(sections: list[tuple[str, bytes]]) -> None:
    found = read(*sections)
    assert (found.counts, found.damaged) == (Counter(), False)


@needs_gcc
def test_a_section_that_a_real_linker_placed(tmp_path: Path) -> None:
    plain = build_library(tmp_path / "libkernels.so")
    made = with_section(plain, ".nv_fatbin", fatbin(WHEEL, WHEEL))
    found = reader.read(Elf(made.read_bytes()))
    assert (found.counts, found.damaged) == (counted(*WHEEL, *WHEEL), False)
    assert reader.read(Elf(plain.read_bytes())).counts == Counter()


codes = st.builds(
    Code,
    arch=st.sampled_from([50, 61, 70, 75, 80, 86, 89, 90, 100, 103, 120, 121]),
    kind=st.sampled_from([PTX, SASS]),
    flags=st.integers(0, 2**22),
    size=st.integers(0, 90),
)
sections = st.lists(st.lists(codes, min_size=1, max_size=6), min_size=1, max_size=6)


@settings(deadline=None, max_examples=80)
@given(sections, sections, st.integers(0, 64))
def test_what_was_written_is_counted(a: list[list[Code]], b: list[list[Code]], pad: int) -> None:
    found = read((".nv_fatbin", fatbin(*a, padding=pad)), (".nv_fatbin", fatbin(*b, padding=pad)))
    written = [code for codes in (*a, *b) for code in codes]
    assert (found.counts, found.damaged) == (counted(*written), False)


# --- damage ----------------------------------------------------------------------------------

GOOD = fatbin(WHEEL, WHEEL)


def test_a_section_cut_anywhere_is_damaged() -> None:
    whole = container(WHEEL)
    for end in range(1, len(whole)):
        found = read((".nv_fatbin", whole[:end]))
        assert found.damaged, end
        assert found.counts <= counted(*WHEEL), end


def test_a_section_that_claims_to_go_on_beyond_the_file() -> None:
    whole = elf_around([(".nv_fatbin", GOOD)])
    size_at = len(whole) - 2 * 64 + 32
    found = reader.read(Elf(patched(whole, size_at, "<Q", 1 << 40)))
    assert (found.counts, found.damaged) == (counted(*WHEEL, *WHEEL), True)


@pytest.mark.parametrize(
    ("content", "counts"),
    [
        (b"\xff" * 5000, counted()),
        (b"\x50\xed\x55\xba" * 50, counted()),
        (container([Code(75)]) + b"\xff" * 64 + container([Code(80)]), counted(Code(75), Code(80))),
    ],
    ids=["noise", "magic only", "noise between"],
)
def test_noise_is_skipped(content: bytes, counts: Counter[tuple[str, int]]) -> None:
    assert read((".nv_fatbin", content)).counts == counts


@pytest.mark.parametrize("content", [b"\xff" * 5000, b"\x50\xed\x55\xba" * 50])
def test_a_section_without_any_container_is_damaged(content: bytes) -> None:
    assert read((".nv_fatbin", content)).damaged


@pytest.mark.parametrize(
    "content",
    [
        container([Code(75)]) + b"\xff" * 64 + container([Code(80)]),
        GOOD[: len(GOOD) // 2] + b"\xff" * (len(GOOD) // 2),
    ],
    ids=["noise between", "overwritten end"],
)
def test_noise_beside_good_containers_is_damage(content: bytes) -> None:
    assert read((".nv_fatbin", content)).damaged


@pytest.mark.parametrize("content", [bytes(100), b"\x50\xed", b"\xff" * 15])
def test_a_section_that_held_nothing_is_damaged(content: bytes) -> None:
    """A compiler writes no such section; blocks that a failed copy left unwritten read as zeros."""
    assert read((".nv_fatbin", content)).damaged


@pytest.mark.parametrize("size", [2**31, 2**40, 2**63, 2**64 - 1])
@pytest.mark.parametrize("at", [8, 16 + 8], ids=["container", "entry"])
def test_a_size_beyond_everything(at: int, size: int) -> None:
    content = bytearray(GOOD)
    content[at : at + 8] = size.to_bytes(8, "little")
    found = read((".nv_fatbin", bytes(content)))
    assert found.damaged


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=8))
def test_flipped_bytes(changes: list[tuple[int, int]]) -> None:
    content = bytearray(GOOD)
    for place, byte in changes:
        content[place] = byte
    watched = Watched(elf_around([(".nv_fatbin", bytes(content))]))
    found = reader.read(Elf(watched))
    assert watched.looks < len(watched)
    assert sum(found.counts.values()) <= len(GOOD) // reader.ENTRY.size


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=400))
def test_any_bytes(content: bytes) -> None:
    found = read((".nv_fatbin", content))
    assert found.damaged or not content or found.counts


def test_of_a_large_section_only_headers_are_read() -> None:
    """20,000 kernels: each is looked at once."""
    kernels = 300 * 10 * len(WHEEL)
    watched = Watched(elf_around([(".nv_fatbin", container(WHEEL * 10) * 300)]))
    found = reader.read(Elf(watched))
    assert sum(found.counts.values()) == kernels
    assert watched.looks < 1.1 * kernels
    assert watched.read <= reader.ENTRY.size * watched.looks

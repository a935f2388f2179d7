"""Orders of versions as the field writes them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from doctor.knowledge.versions import at_least, cann_key, minor, older, parts, release


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("580.95.05", (580, 95, 5)),
        ("12.8", (12, 8)),
        ("2.9.1+cu128", (2, 9, 1)),
        ("2.10.0a0+gitba93d56", (2, 10, 0)),
        (" 13 ", (13,)),
        ("8.2.RC1", (8, 2)),
        ("v1.2", ()),
        ("", ()),
        ("unknown", ()),
    ],
)
def test_parts(version: str, expected: tuple[int, ...]) -> None:
    assert parts(version) == expected


@pytest.mark.parametrize(
    ("version", "floor", "expected"),
    [
        ("580.95.05", "580", True),
        ("525.60.13", "525.60.13", True),
        ("525.60.11", "525.60.13", False),
        ("525.60", "525.60.13", True),
        ("525", "525.60.13", True),
        ("524", "525.60.13", False),
        ("535.104.05", "525.60.13", True),
        ("9.10", "9.9", True),
        ("570.86.10", "570.124.06", False),
        ("1000.1", "580.65.06", True),
        ("12.8", "13.0", False),
        ("580.95.05", "", True),
    ],
)
def test_at_least(version: str, floor: str, expected: bool) -> None:
    assert at_least(version, floor) is expected


@pytest.mark.parametrize("version", ["", "unknown", "N/A"])
def test_no_version_reaches_no_floor(version: str) -> None:
    assert not at_least(version, "525.60.13")


@pytest.mark.parametrize(
    ("version", "other", "expected"),
    [
        ("2.9", "2.10", True),
        ("2.9", "2.9.0", False),
        ("2.9.0", "2.9", False),
        ("2.9.0", "2.9.1+cu128", True),
        ("13.0", "12.8", False),
        ("", "1", True),
    ],
)
def test_older(version: str, other: str, expected: bool) -> None:
    assert older(version, other) is expected


numbers = st.lists(st.integers(0, 2000), min_size=1, max_size=4).map(
    lambda n: ".".join(str(i) for i in n)
)


@given(numbers, numbers)
def test_older_orders_releases_as_packaging_does(a: str, b: str) -> None:
    assert older(a, b) == (Version(a) < Version(b))


@given(numbers, numbers)
def test_at_least_agrees_where_nothing_is_shortened(a: str, b: str) -> None:
    if a.count(".") >= b.count("."):
        assert at_least(a, b) == (Version(a) >= Version(b))
    assert at_least(a, a)


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_can_be_compared(a: str, b: str) -> None:
    assert isinstance(at_least(a, b), bool)
    assert isinstance(older(a, b), bool)
    assert minor(a) in release(a) or not release(a)
    assert cann_key(a) < cann_key(b) or cann_key(a) >= cann_key(b)


@pytest.mark.parametrize(
    ("version", "short", "whole"),
    [
        ("2.9.1+cu128", "2.9", "2.9.1"),
        ("2.10.0a0+gitba93d56", "2.10", "2.10.0"),
        ("2.9.0.post2", "2.9", "2.9.0"),
        ("3.12", "3.12", "3.12"),
        ("3", "3", "3"),
        ("none", "", ""),
    ],
)
def test_minor_and_release(version: str, short: str, whole: str) -> None:
    assert (minor(version), release(version)) == (short, whole)


CANN_ORDER = ["7.0.0", "8.0.RC1", "8.0.RC2", "8.0.RC3", "8.0.0", "8.0.1", "8.1.RC1", "8.2.RC1",
              "8.2.RC2", "8.2.0", "8.3.RC1", "8.3.RC2", "8.3.0", "8.5.0", "9.0.0-beta.1",
              "9.0.0-beta.2", "9.0.0", "9.1.0", "10.0.0"]  # fmt: skip


@pytest.mark.parametrize(("earlier", "later"), list(itertools.pairwise(CANN_ORDER)))
def test_cann_releases_in_order(earlier: str, later: str) -> None:
    assert cann_key(earlier) < cann_key(later)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("8.2.RC1.alpha001", "8.2.RC1.alpha002"),
        ("8.2.RC1.alpha003", "8.2.RC1"),
        ("8.5.0.alpha001", "8.5.0"),
    ],
)
def test_cann_alphas_come_before_what_they_announce(earlier: str, later: str) -> None:
    assert cann_key(earlier) < cann_key(later)

"""How quantities are written, and that nothing writes them in another way."""

from __future__ import annotations

import re

import pytest
from conftest import REPO

from doctor.text.quantities import about, brief, clock, count, disk, disk_of_mib, memory, short


@pytest.mark.parametrize(
    ("mib", "text"),
    [(0, "0 MiB"), (0.2, "1 MiB"), (512, "512 MiB"), (1023.7, "1 GiB"), (6141, "6 GiB"),
     (16303, "15.9 GiB"), (81559, "79.6 GiB"), (786432, "768 GiB"), (2048000, "2000 GiB")],
)  # fmt: skip
def test_memory(mib: float, text: str) -> None:
    assert memory(mib) == text


@pytest.mark.parametrize(
    ("megabytes", "text"),
    [(0, "0 MB"), (0.3, "1 MB"), (95, "95 MB"), (999.6, "1 GB"), (3000, "3 GB"), (33900, "33.9 GB"),
     (128_000, "128 GB"), (12_000_000, "12 TB")],
)  # fmt: skip
def test_disk(megabytes: float, text: str) -> None:
    assert disk(megabytes) == text


def test_free_space_is_said_in_the_unit_of_what_is_needed() -> None:
    assert disk_of_mib(1000 / 1.048576) == disk(1000)


@pytest.mark.parametrize(
    ("seconds", "long", "column"),
    [(1, "less than a minute", "<1 min"), (59, "less than a minute", "<1 min"),
     (60, "about 1 minute", "1 min"), (125, "about 2 minutes", "2 min"),
     (5940, "about 99 minutes", "99 min"), (7200, "about 2 hours", "2 h"),
     (18720, "about 5.2 hours", "5.2 h"), (35900, "about 10 hours", "10 h"),
     (60120, "about 17 hours", "17 h"), (1e6, "about 12 days", "12 d")],
)  # fmt: skip
def test_estimates(seconds: float, long: str, column: str) -> None:
    assert (about(seconds), brief(seconds)) == (long, column)


def test_clock() -> None:
    said = [clock(s) for s in (4.4, 59.6, 61, 185, 599.7, 3599, 3600, 11100, 180_000)]
    assert said == ["4 s", "1 min 00 s", "1 min 01 s", "3 min 05 s", "10 min", "1 h 00 min",
                    "1 h 00 min", "3 h 05 min", "2 d 02 h"]  # fmt: skip


def test_counts() -> None:
    said = [count(n, "error") for n in (0, 1, 2)] + [count(8, "pass"), count(2, "GPU")]
    assert said == ["no errors", "1 error", "2 errors", "8 passes", "2 GPUs"]
    assert count(2, "entry", "entries") == "2 entries"


def test_large_numbers() -> None:
    said = [short(n) for n in (150, 614_400, 999_960, 2.0e6, 286.3e6, 5.2e9)]
    assert said == ["150", "614.4 K", "1.0 M", "2.0 M", "286.3 M", "5.2 B"]


SIZE = re.compile(r"\{[^{}]*(?::[,.\d]*[fd])?\} ?([KMGT]i?B)\b")


def test_sizes_for_people_are_written_in_one_place() -> None:
    """Nobody formats a size by hand; evidence is quoted as it was read, and so is what the trainer counts."""
    found = {}
    for path in sorted((REPO / "doctor").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        lines = [line.strip() for line in text.splitlines() if SIZE.search(line)]
        lines = [line for line in lines if not line.startswith(("[f", "+ ([f"))]
        if lines and path.name != "quantities.py":
            found[str(path.relative_to(REPO))] = lines
    assert found == {}

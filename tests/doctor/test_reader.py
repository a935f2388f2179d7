"""A file that is read in pieces, against the same bytes in memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doctor import reader
from doctor.reader import BLOCK, FileReader

SIZE = 3 * BLOCK + 17
DATA = bytes(i * 7 % 251 for i in range(SIZE))
places = st.integers(-SIZE - 9, SIZE + 9)
"""Around every edge of the file and of its blocks."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("reader") / "data"
    made.write_bytes(DATA)
    return made


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(places, places), min_size=1, max_size=20))
def test_slices_are_those_of_bytes(path: Path, pieces: list[tuple[int, int]]) -> None:
    with path.open("rb") as file:
        view = FileReader(file.fileno())
        assert len(view) == SIZE
        for start, stop in pieces:
            assert view[start:stop] == DATA[start:stop]
        assert view[:] == DATA and view[SIZE:] == b""


@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    places,
    places | st.none(),
    st.integers(0, SIZE),
    st.integers(1, 40),
    st.sampled_from([64, 99, SIZE]),
)
def test_finds_what_bytes_find(
    path: Path, monkeypatch: pytest.MonkeyPatch,
    start: int, stop: int | None, at: int, size: int, chunk: int,
) -> None:  # fmt: skip
    """Also across the pieces that are searched one after another."""
    monkeypatch.setattr(reader, "CHUNK", chunk)
    needle = DATA[at : at + size] or b"absent"
    with path.open("rb") as file:
        view = FileReader(file.fileno())
        assert view.find(needle, start, stop) == DATA.find(needle, start, stop)
        assert view.find(b"\xff\xff", start, stop) == -1


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    shrinking = tmp_path / "shrinking"
    shrinking.write_bytes(DATA)
    with shrinking.open("rb") as file:
        view = FileReader(file.fileno())
        os.truncate(shrinking, 10)
        assert view[:] == DATA[:10]
        assert view[BLOCK : BLOCK + 4] == b""
        assert view.find(b"\xff\xff") == -1


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open("rb") as file:
        view = FileReader(file.fileno())
        assert (len(view), view[:], view.find(b"x")) == (0, b"", -1)

"""A file reads like the bytes that it holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doctor.machine import reader
from doctor.machine.reader import FileReader


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=200),
    needle=st.binary(min_size=1, max_size=4),
    start=st.integers(0, 220),
    stop=st.integers(0, 1 << 70),
)
def test_slices_and_searches_are_those_of_bytes(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, needle: bytes, start: int, stop: int
) -> None:
    path = tmp_path_factory.mktemp("reader") / "file"
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDONLY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "BLOCK", 16)
        patch.setattr(reader, "CHUNK", 8)
        view = FileReader(descriptor)
        assert len(view) == len(content)
        for _ in range(2):  # the second time from the block that is kept
            assert view[start:stop] == content[start:stop]
            assert view[start : start + 5] == content[start : start + 5]
            assert view.find(needle, start, stop) == content.find(needle, start, stop)
    os.close(descriptor)


def test_a_file_that_shrinks_reads_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 10_000)
    descriptor = os.open(path, os.O_RDONLY)
    view = FileReader(descriptor)
    os.truncate(path, 100)
    assert view[0:10_000] == b"a" * 100
    assert view[200:300] == b""
    assert view.find(b"b") == -1
    os.close(descriptor)

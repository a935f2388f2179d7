from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

from hypothesis import given
from hypothesis import strategies as st

from nanochat.corpus import Reading, build, pieces
from nanochat.errors import NanochatError
from nanochat.shards import Dataset, read_documents, write_shard


def texts_of(data: Dataset) -> tuple[list[str], list[str]]:
    train = [text for path in data.train for text in read_documents(path)]
    return train, list(read_documents(data.validation))


def lines(*values: object) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """One of each kind, nested, among things to leave alone."""
    folder = tmp_path / "source"
    (folder / "b" / "c").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "z.txt").write_bytes(b"\xef\xbb\xbfend\r\nof file")
    (folder / "a.MD").write_text("# first")
    (folder / "b" / "l.jsonl").write_text(
        lines({"text": "one", "id": 1}) + "\n" + lines({"text": "two"})
    )
    (folder / "b" / "c" / "p.jsonl.gz").write_bytes(
        gzip.compress(lines({"text": "packed"}).encode())
    )
    write_shard(folder / "b" / "c" / "s.parquet", ["three", "four"])
    (folder / ".git" / "x.txt").write_text("hidden")
    (folder / "b" / ".y.txt").write_text("hidden")
    (folder / "lost.txt").symlink_to("nowhere")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    return folder


def test_every_kind_in_the_order_of_names(source: Path) -> None:
    reading = Reading(source)
    expected = ["# first", "packed", "three", "four", "one", "two", "end\nof file"]
    assert list(reading) == expected
    assert reading.summary() == "5 files"
    assert list(Reading(source / "b" / "l.jsonl")) == ["one", "two"]


def test_what_cannot_be_read_is_skipped_and_counted(source: Path) -> None:
    (source / "latin.txt").write_bytes("hé".encode("latin-1") * 9)
    (source / "torn.jsonl.gz").write_bytes(gzip.compress(lines({"text": "x"}).encode())[:-6])
    (source / "l.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "to\n\xff\xfe\n')
    reading = Reading(source)
    assert "ok" in list(reading)
    assert reading.skipped["not UTF-8"] == 1
    assert reading.skipped["lines that are no JSON"] == 1
    assert reading.skipped["lines not UTF-8"] == 1
    assert reading.skipped["unreadable (EOFError)"] == 1
    assert "skipped 1 not UTF-8" in reading.summary()


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (
            {"content": "x", "id": 3},
            "a.jsonl line 2 has no text under the key `text`, it has: content, id",
        ),
        ({"text": ["x"]}, "no text under the key"),
        (["x"], "is a list"),
    ],
)
def test_other_keys_are_named(tmp_path: Path, line: object, what: str) -> None:
    (tmp_path / "a.jsonl").write_text(lines({"text": "good"}, line))
    with pytest.raises(NanochatError, match=what):
        list(Reading(tmp_path))


def test_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(NanochatError, match=r"no text that can be read; wanted are .*\.jsonl\.gz"):
        list(Reading(tmp_path))


def test_the_mark_changes_with_the_files(source: Path) -> None:
    before = Reading(source).mark()
    assert Reading(source).mark() == before
    (source / "picture.png").write_bytes(b"of no interest")
    assert Reading(source).mark() == before
    (source / "new.txt").write_text("x")
    assert Reading(source).mark() != before


@given(st.text(st.sampled_from("ab. \n"), max_size=200), st.integers(2, 30))
def test_pieces_lose_nothing_but_blanks(text: str, longest: int) -> None:
    parts = list(pieces(text, longest))
    assert all(part.strip() and len(part) <= longest for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_pieces_end_where_a_reader_would() -> None:
    assert list(pieces("One two.\n\nThree four. Five", 15)) == ["One two.", "Three four.", "Five"]
    assert list(pieces("def f():\n    return 1\n    # end", 24)) == [
        "def f():\n    return 1",
        "    # end",
    ]


@pytest.mark.parametrize("number", [2, 50, 3000])
def test_built_whole_disjoint_and_the_same_each_time(tmp_path: Path, number: int) -> None:
    documents = [f"document {n} x" + "x" * (n % 50) for n in range(number)]
    said: list[str] = []
    built = [
        build(
            order, tmp_path / at / "data", name="data", source="test", chars=20_000, say=said.append
        )
        for at, order in (("a", documents * 2), ("b", (documents * 2)[::-1]))
    ]
    train, held_out = texts_of(built[0])
    assert texts_of(built[1]) == (train, held_out)
    assert sorted(train + held_out) == sorted(documents)
    assert train != sorted(train) or number < 3
    expected = {2: (1, 1), 50: (5, 10), 3000: (200, 200)}[number]
    assert expected[0] <= len(held_out) <= expected[1]
    assert f"{number} repetitions left out" in said[0]
    folder = tmp_path / "a" / "data"
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["checksums.json", "dataset.json", "val.parquet", *(path.name for path in built[0].train)]
    )
    assert len(built[0].train) == (1 if number < 3000 else 3)


def test_halves_of_surrogates_do_no_harm(tmp_path: Path) -> None:
    data = build(["a\ud800b", "c", "d"], tmp_path / "data", name="x", source="test")
    train, held_out = texts_of(data)
    assert sorted(train + held_out) == ["a?b", "c", "d"]


def test_too_few_documents_leave_nothing_behind(tmp_path: Path) -> None:
    for documents in ([], ["a"], ["a", "a", "a"], ["  ", "\n"]):
        with pytest.raises(NanochatError, match="too few to train on some"):
            build(documents, tmp_path / "data", name="x", source="the text")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    data = build(["a", "b"], tmp_path / "data", name="x", source="test")
    before = data.validation.read_bytes()
    with pytest.raises(NanochatError, match="exists already"):
        build(["c", "d"], tmp_path / "data", name="x", source="test")
    assert data.validation.read_bytes() == before


def test_killed_while_building(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from nanochat.corpus import build
def documents():
    for n in range(5000):
        yield f"document {n}"
    if len(sys.argv) > 2:
        os.kill(os.getpid(), 9)
build(documents(), Path(sys.argv[1]), name="x", source="test")
"""
    folder = tmp_path / "data"
    killed = subprocess.run([sys.executable, "-c", script, str(folder), "kill"])
    assert killed.returncode == -9
    assert not folder.exists()
    assert os.listdir(tmp_path) == [".data.partial"]
    assert subprocess.run([sys.executable, "-c", script, str(folder)]).returncode == 0
    assert os.listdir(tmp_path) == ["data"]

"""What is kept of answers, for how long, and what is not believed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile import KINDS

from doctor.index.cache import DAY, FAILURE_SECONDS, Answer, Cache
from doctor.index.page import File
from doctor.machine.own_folder import cache_folder

URL = "http://127.0.0.1:1/simple/torch/"
NOW = 1_795_000_000.0
FOUND = Answer((File("torch-2.9.1-cp312-cp312-linux_x86_64.whl", ">=3.10", 9), File("torch-x.whl")))
FAILED = Answer(trouble="HTTP 503")


@pytest.mark.parametrize(
    ("env", "folder"),
    [
        ({"HOME": "/home/u"}, "/home/u/.cache/nanochat-doctor/index"),
        ({"HOME": "/home/u", "XDG_CACHE_HOME": "/c"}, "/c/nanochat-doctor/index"),
        ({"HOME": "/home/u", "XDG_CACHE_HOME": ""}, "/home/u/.cache/nanochat-doctor/index"),
        ({"HOME": "/home/u", "XDG_CACHE_HOME": "c"}, "/home/u/.cache/nanochat-doctor/index"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/nanochat-doctor/index"),
        ({"HOME": ""}, None),
        ({}, None),
    ],
)
def test_the_folder(env: dict[str, str], folder: str | None) -> None:
    assert cache_folder(env) == (Path(folder) if folder else None)


@pytest.mark.parametrize(("answer", "seconds"), [(FOUND, DAY), (FAILED, FAILURE_SECONDS)])
def test_how_long_it_is_kept(tmp_path: Path, answer: Answer, seconds: float) -> None:
    Cache(tmp_path / "a" / "b", NOW).write(URL, answer)
    for age, kept in ((0.0, True), (seconds - 1, True), (seconds, False), (-1.0, False)):
        expected = answer if kept else None
        assert Cache(tmp_path / "a" / "b", NOW + age).read(URL) == expected, age
    assert Cache(tmp_path / "a" / "b", NOW).read(URL + "x") is None


SECRET = [
    "http://me:pass-word@h.corp/simple/torch/",
    "http://me:other@h.corp/simple/torch/",
    "http://pass-word@h.corp/simple/torch/",
    "http://h.corp/simple/torch/",
    "http://h.corp/simple/torch/?token=pass-word",
    "http://h.corp/simple/torch/?token=other",
    "http://h.corp/t/pass-word/simple/torch/",
    "http://h.corp/simple/torch/#pass-word",
    "http://me:pass/word@h.corp/simple/torch/",
    "http://h.corp/\udcff/",
]


def test_addresses_are_not_kept_and_are_told_apart(tmp_path: Path) -> None:
    answers = {url: Answer((File(f"torch-{n}.whl"),)) for n, url in enumerate(SECRET)}
    for url, answer in answers.items():
        Cache(tmp_path, NOW).write(url, answer)
    for url, answer in answers.items():
        assert Cache(tmp_path, NOW).read(url) == answer
    entries = list(tmp_path.iterdir())
    assert len(entries) == len(SECRET)
    for entry in entries:
        kept = entry.name + entry.read_text()
        assert not [word for word in ("pass", "word", "h.corp", "other", "://") if word in kept]


def test_what_is_old_goes(tmp_path: Path) -> None:
    old, young = tmp_path / "old.json", tmp_path / "young.json"
    for path in (old, young):
        path.write_text('{"schema": 1, "url": "http://h.corp/?token=x"}')
    os.utime(old, (0, 0))
    Cache(tmp_path, NOW).write(URL, FOUND)
    assert not old.exists() and young.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_an_entry_of_any_kind_is_none(tmp_path: Path, kind: str) -> None:
    cache = Cache(tmp_path, NOW)
    cache.write(URL, FOUND)
    (entry,) = tmp_path.iterdir()
    entry.unlink()
    KINDS[kind](entry)
    assert cache.read(URL) is None
    cache.write(URL, FOUND)
    assert cache.read(URL) == (None if kind == "a folder" else FOUND)


def changes() -> list[dict[str, Any]]:
    return [
        {"schema": 1}, {"schema": None}, {"page": "0" * 64}, {"time": "x"}, {"time": None},
        {"time": float("nan")}, {"files": None}, {"files": "abc"}, {"files": ["abcd"]}, {"files": [["a"] * 9]},
        {"files": [[1, "", None]]}, {"files": [["a", None, None]]}, {"files": [["a", "", "9"]]},
        {"files": [[]]}, {"trouble": 5},
    ]  # fmt: skip


@pytest.mark.parametrize("change", changes(), ids=str)
def test_what_we_did_not_write_is_not_believed(tmp_path: Path, change: dict[str, Any]) -> None:
    Cache(tmp_path, NOW).write(URL, FOUND)
    (entry,) = tmp_path.iterdir()
    entry.write_text(json.dumps({**json.loads(entry.read_text()), **change}))
    assert Cache(tmp_path, NOW).read(URL) is None


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_entry_is_replaced(tmp_path: Path, body: bytes) -> None:
    cache = Cache(tmp_path, NOW)
    cache.write(URL, FOUND)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(body)
    assert cache.read(URL) is None
    cache.write(URL, FOUND)
    assert cache.read(URL) == FOUND


def test_every_beginning_of_an_entry_is_ignored(tmp_path: Path) -> None:
    cache = Cache(tmp_path, NOW)
    cache.write(URL, FOUND)
    (entry,) = tmp_path.iterdir()
    whole = entry.read_bytes()
    for length in range(len(whole)):
        entry.write_bytes(whole[:length])
        assert cache.read(URL) is None


def test_no_folder_keeps_nothing() -> None:
    cache = Cache(None, NOW)
    cache.write(URL, FOUND)
    assert cache.read(URL) is None


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "index", NOW)
    cache.write(URL, FOUND)
    assert cache.read(URL) is None


def test_an_entry_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    cache = Cache(tmp_path, NOW)
    cache.write(URL, FOUND)
    (entry,) = tmp_path.iterdir()
    entry.unlink()
    entry.mkdir()
    cache.write(URL, FOUND)
    assert list(tmp_path.iterdir()) == [entry] and cache.read(URL) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    cache = Cache(tmp_path, NOW)
    cache.write(URL, FOUND)
    assert cache.read(URL) is None


def test_many_processes_write_one_entry(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from doctor.index.cache import Answer, Cache
from doctor.index.page import File
cache = Cache(Path({str(tmp_path)!r}), {NOW})
answer = Answer(tuple(File(f"torch-{{n}}.whl") for n in range(2000)))
for _ in range(30):
    cache.write({URL!r}, answer)
    found = cache.read({URL!r})
    assert found == answer, found
"""
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 1

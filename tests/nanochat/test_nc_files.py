"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from nanochat.errors import NanochatError
from nanochat.files import CHUNK, atomic, base_dir, crc32

REPO = Path(__file__).resolve().parents[2]


def test_the_base_folder_is_the_one_named_or_that_of_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "~/models")
    assert base_dir() == tmp_path / "models"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "")
    assert base_dir() == tmp_path / ".cache" / "nanochat"
    assert list(tmp_path.iterdir()) == []


def test_a_file_appears_with_its_folders_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    with atomic(path) as file:
        file.write(b"one")  # type: ignore[call-overload]
        assert not path.exists()
    assert path.read_bytes() == b"one"
    with atomic(path, "w") as file:
        file.write("zwei ✓")  # type: ignore[call-overload]
        assert path.read_bytes() == b"one"
    assert path.read_text(encoding="utf-8") == "zwei ✓"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error), atomic(path) as file:
        file.write(b"new")  # type: ignore[call-overload]
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with (
        pytest.raises(NanochatError, match=r"cannot be written.*NANOCHAT_BASE_DIR"),
        atomic(tmp_path / "taken" / "x"),
    ):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
def test_a_full_disk_is_one_sentence_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    # The partial file is a door to a disk that is always full.
    os.symlink("/dev/full", tmp_path / f".file.{os.getpid()}.tmp")
    with pytest.raises(NanochatError, match="No space left"), atomic(path) as file:
        file.write(b"x" * 100_000)  # type: ignore[call-overload]
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


WRITER = """
import itertools, sys
from pathlib import Path
from nanochat.files import atomic
for number in itertools.count():
    with atomic(Path(sys.argv[1])) as file:
        file.write(b"%d" % (number % 10) * 300_000)
    print(number, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for attempt in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], cwd=REPO, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.013 * attempt)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        contents = path.read_bytes()
        assert len(contents) == 300_000 and len(set(contents)) == 1


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1])
def test_a_checksum_is_that_of_the_whole(size: int, tmp_path: Path) -> None:
    data = bytes(i * 7 % 251 for i in range(size))
    (tmp_path / "file").write_bytes(data)
    assert crc32(tmp_path / "file") == f"{zlib.crc32(data):08x}"

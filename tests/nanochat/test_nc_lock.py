from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nanochat.errors import NanochatError
from nanochat.lock import hold, local_stand_in, locked, open_own

HOLD = """
import sys, time
from pathlib import Path
from nanochat.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    process = holder(path)
    waited = threading.Event()
    entered = threading.Event()

    def enter() -> None:
        with locked(path, waited.set):
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    assert waited.wait(10)
    assert not entered.wait(0.2)
    os.kill(process.pid, signal.SIGKILL)
    assert entered.wait(10)
    thread.join()
    process.wait()
    assert process.stdout
    process.stdout.close()


def test_threads_take_turns(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            with locked(tmp_path / "lock"):
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 200
    assert max(most) == 1


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(NanochatError, match="cannot be written"),
        locked(tmp_path / "file" / "lock"),
    ):
        pass


@pytest.mark.parametrize("kind", ["link", "dangling", "hard link", "folder", "pipe"])
def test_a_lock_below_tmp_is_never_somebody_elses_file(tmp_path: Path, kind: str) -> None:
    """In a folder that all may write to, another user has put something under the name first."""
    precious, path = tmp_path / "precious", tmp_path / "nanochat-0-0.lock"
    precious.write_text("years of work")
    {
        "link": lambda: path.symlink_to(precious),
        "dangling": lambda: path.symlink_to(tmp_path / "made by us"),
        "hard link": lambda: path.hardlink_to(precious),
        "folder": lambda: path.mkdir(),
        "pipe": lambda: os.mkfifo(path),
    }[kind]()
    with pytest.raises(NanochatError, match="so it is not written to; remove it"):
        open_own(path)
    assert precious.read_text() == "years of work" and not (tmp_path / "made by us").exists()


def test_a_lock_below_tmp_is_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    os.close(open_own(path))
    assert path.stat().st_mode & 0o777 == 0o600
    os.close(open_own(path))
    assert str(os.getuid()) in local_stand_in("nanochat", tmp_path / "\udcff").name


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_a_lock_below_tmp_of_another_user(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    os.chown(path, 12345, 12345)
    with pytest.raises(NanochatError, match="belongs to another user"):
        open_own(path)


def test_a_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("years of work")
    (tmp_path / "lock").symlink_to(precious)
    with pytest.raises(NanochatError), locked(tmp_path / "lock"):
        pass
    with pytest.raises(NanochatError):
        hold(tmp_path / "lock")
    assert precious.read_text() == "years of work"

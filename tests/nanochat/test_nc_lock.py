from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nanochat.errors import NanochatError
from nanochat.lock import locked

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

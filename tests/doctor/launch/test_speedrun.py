"""The main job for real: a tiny model on this machine's CPU, from nothing to a sample; again; killed and resumed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[3]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("torch", "rustbpe", "pyarrow")),
        reason="needs torch and rustbpe in this environment: a speedrun would install them",
    ),
]

SMALL = {
    "NANOCHAT_VOCAB_SIZE": "512",
    "NANOCHAT_BASE_SEQ_LEN": "64",
    "NANOCHAT_BASE_BATCH": "1024",
    "NANOCHAT_BASE_STEPS": "12",
    "NANOCHAT_EVAL_TOKENS": "4096",
    "NANOCHAT_SAMPLE_TOKENS": "8",
    "NANOCHAT_SAVE_EVERY": "2",
}


class Speedrun:
    def __init__(self, folder: Path, **more: str) -> None:
        self.folder, self.base = folder, folder / "base"
        self.env = {**os.environ, **SMALL, "NANOCHAT_BASE_DIR": str(self.base), **more}

    def start(self) -> subprocess.Popen[str]:
        words = ["speedrun", "--profile", "smoke", "--depth", "1", "--offline", "--yes"]
        return subprocess.Popen(
            [sys.executable, "-m", "doctor", *words, "-o", str(self.folder / "run")],
            cwd=REPO,
            env=self.env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self) -> tuple[int, str, str]:
        process = self.start()
        out, err = process.communicate(timeout=500)
        return process.returncode, out, err

    def leftovers(self) -> list[str]:
        """Processes whose environment names this run's base folder."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(self.base).encode() in (path / "environ").read_bytes():
                    found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all these tests run one after the other, from nothing to a model that has come through everything."""
    return tmp_path_factory.mktemp("speedrun")


def test_a_stage_that_fails_is_named_with_its_last_lines_and_its_log(folder: Path) -> None:
    speedrun = Speedrun(folder, NANOCHAT_BASE_BATCH="1000")
    status, out, err = speedrun.run()
    assert status == 1 and "✓ data" in out and "✓ tokenizer" in out and "✗ base" in out
    first, *rest = err.splitlines()
    assert (
        first.startswith("nanochat-doctor: Stage base failed")
        and "goes on with this stage" in first
    )
    assert any("1000" in line for line in rest)
    log = first.split("all of it is in ")[1].split(".log")[0] + ".log"
    assert "1000" in Path(log).read_text()


def test_ctrl_c_leaves_no_process_behind(folder: Path) -> None:
    speedrun = Speedrun(folder, NANOCHAT_BASE_STEPS="100000")
    process = speedrun.start()
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("▶ base"):
            break
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Interrupted" in err
    assert speedrun.leftovers() == []


def test_killed_at_random_moments_it_goes_on_to_a_sample_and_then_nothing_is_to_do(
    folder: Path,
) -> None:
    moments = random.Random(7)
    speedrun = Speedrun(folder)
    for _ in range(2):
        process = speedrun.start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(3, 12))
        process.kill()
        process.communicate()
        # What it had started runs on, as a power cut would not have it: end it as hard.
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ProcessLookupError):
                if str(speedrun.base).encode() in (path / "environ").read_bytes():
                    os.kill(int(path.name), signal.SIGKILL)
    status, out, err = speedrun.run()
    assert (status, err) == (0, ""), err
    for stage in ("base", "base_eval", "sample"):
        assert f"✓ {stage}" in out or f"{stage}: done before" in out
    assert "Talk to it" in out and str(speedrun.base / "base_checkpoints/smoke-d1") in out
    status, again, err = speedrun.run()
    assert (status, err) == (0, "")
    assert again.count("done before") == 5
    assert "Talk to it" in again

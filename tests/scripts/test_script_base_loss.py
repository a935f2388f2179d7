"""base_loss says what base_eval says of the same text, under the flags of its time."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import warm

for package in ("torch", "pyarrow", "yaml"):
    pytest.importorskip(package)

import crate  # noqa: E402, F401
from small_model import make_base  # noqa: E402

from nanochat.evaluation import PROMPTS  # noqa: E402
from scripts import base_eval, base_loss  # noqa: E402

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    return make_base(tmp_path)


def test_as_base_eval(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same numbers for the same tokens, and samples."""
    flags = ["--data", str(base / "data"), "--device-type", "cpu", "--split_tokens=128"]
    flags += ["--device_batch_size=2", "--model_tag=d2"]
    base_loss.main([*flags, "--model_step=7"])
    said = capsys.readouterr().out
    base_eval.main([*flags, "--step=7", "--eval", "bpb"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "bits per byte" in line]
    assert len(lines) == 2
    assert all(line in said.splitlines() for line in lines)
    assert all(f"\n{prompt}|" in said for prompt in PROMPTS)


def test_a_batch_that_the_text_does_not_fill(base: Path) -> None:
    """One line and status 1 from a real process, and no file."""
    done = subprocess.run(
        [
            *(warm.python(), "-m", "scripts.base_loss", "--data", str(base / "data")),
            *("--device-batch-size", "500"),
        ],
        cwd=REPO,
        env={**os.environ, "NANOCHAT_BASE_DIR": str(base)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "--device-batch-size" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (base / "base_eval").exists()

"""The step line, its smoothing and its clocks, and the places where records go."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nanochat.errors import NanochatError
from nanochat.metrics import (
    WARMUP_STEPS,
    JsonLines,
    Progress,
    Sinks,
    StepLine,
    duration,
    open_sinks,
    read_jsonl,
    utilisation,
)

REPO = Path(__file__).resolve().parents[2]

# --- one step ---------------------------------------------------------------------------------


def a_step(**changes: Any) -> StepLine:
    values: dict[str, Any] = {
        "step": 12,
        "total": 1000,
        "loss": 3.25,
        "lrm": 0.5,
        "seconds": 0.25,
        "tokens": 524288,
        **changes,
    }
    return StepLine(**values)


def test_the_line_says_everything_once() -> None:
    line = a_step(
        mfu=0.412, memory=3 << 29, epoch=2, position="shard 3", elapsed=600, eta=3 * 3600 + 240
    )
    assert str(line) == (
        "step 0012/1000 (1.2%) | loss 3.250000 | lrm 0.500 | dt 250.0 ms | tok/s 2,097,152 | mfu 41.2% | "
        "mem 1.50 GiB | epoch 2 shard 3 | 10.0 min | eta 3 h 04 min"
    )


def test_what_is_not_known_is_left_out() -> None:
    line = a_step()
    assert "mfu" not in str(line) and "mem" not in str(line) and "eta" not in str(line)
    assert "train/mfu" not in line.values()
    assert line.values()["train/tok_per_sec"] == 524288 / 0.25


def test_the_names_of_records() -> None:
    assert set(a_step(mfu=0.0).values()) == {
        "train/loss",
        "train/lrm",
        "train/dt",
        "train/tok_per_sec",
        "train/mfu",
        "train/epoch",
    }


def test_utilisation() -> None:
    assert utilisation(1e9, 1000, 2.0, 1e12, 4) == pytest.approx(0.125)
    assert utilisation(1e9, 1000, 2.0, None, 4) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3599, "1 h 00 min"),
        (11100, "3 h 05 min"),
        (183600, "2 d 03 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_average_of_equal_losses_is_that_loss_from_the_first_step() -> None:
    progress = Progress()
    for _ in range(5):
        progress.add(2.5, 0.1)
        assert progress.loss == pytest.approx(2.5)


def test_the_average_is_the_weighted_mean() -> None:
    losses = [random.Random(1).uniform(0, 9) for _ in range(30)]
    progress = Progress()
    for loss in losses:
        progress.add(loss, 0.1)
    weights = [0.9**age for age in range(30)][::-1]
    mean = sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)
    assert progress.loss == pytest.approx(mean)


def test_the_first_steps_do_not_count_in_times() -> None:
    progress = Progress()
    for _ in range(WARMUP_STEPS):
        progress.add(1.0, 100.0, flops=2.0)
    assert progress.eta(10) is None and progress.seconds == 0
    progress.add(1.0, 2.0, flops=2.0)
    progress.add(1.0, 4.0, flops=2.0)
    assert progress.eta(10) == pytest.approx(30)
    assert progress.flops == 2.0 * (WARMUP_STEPS + 2)


def test_progress_survives_json_bit_for_bit() -> None:
    numbers = random.Random(2)
    whole = Progress()
    for _ in range(17):
        whole.add(numbers.random(), numbers.random())
    part = Progress.from_dict(json.loads(json.dumps(whole.to_dict())))
    assert part == whole
    for _ in range(7):
        loss = numbers.random()
        whole.add(loss, 0.1)
        part.add(loss, 0.1)
        assert part.loss == whole.loss
    with pytest.raises(NanochatError, match="cannot be read"):
        Progress.from_dict({"other": 1})


# --- JSONL ------------------------------------------------------------------------------------


def test_each_record_is_on_the_disk_at_once(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "deep" / "run.jsonl")
    sink.write(0, {"train/loss": 0.1})
    assert (tmp_path / "deep" / "run.jsonl").read_text() == '{"step": 0, "train/loss": 0.1}\n'
    sink.close()


def records(path: Path, steps: range, resume_at: int | None = None) -> None:
    sink = JsonLines(path, resume_at)
    for step in steps:
        sink.write(step, {"train/loss": 1 / (step + 1)})
        if step % 3 == 0:
            sink.write(step, {"val/bpb": 2.0 + step})
    sink.close()


@pytest.mark.parametrize("cut", range(0, 120, 7))
def test_a_killed_and_resumed_file_is_that_of_an_undisturbed_run(tmp_path: Path, cut: int) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    records(whole, range(10))
    records(killed, range(8))
    contents = killed.read_bytes()
    killed.write_bytes(contents[: len(contents) - cut])  # the last lines, whole or not, are lost
    # A checkpoint is never ahead of the file: the last whole record before the cut bounds it.
    resume_at = max([record["step"] for record in read_jsonl(killed)], default=0)
    records(killed, range(resume_at, 10), resume_at=resume_at)
    assert killed.read_bytes() == whole.read_bytes()


def test_a_real_kill_leaves_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    code = (
        "import sys; from pathlib import Path; from nanochat.metrics import JsonLines\n"
        "sink, step = JsonLines(Path(sys.argv[1])), 0\n"
        "while True:\n    sink.write(step, {'train/loss': 0.5}); step += 1\n"
        "    if step == 100: print('go', flush=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=REPO, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    steps = [record["step"] for record in read_jsonl(path)]
    assert len(steps) >= 100 and steps == list(range(len(steps)))


def test_broken_lines_are_dropped_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(b'{"step": 0}\nnonsense\n[1]\n{"loss": 1}\n\xff\xfe\n{"step": 1}\n{"step": 2')
    JsonLines(path, resume_at=9).close()
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n'


def test_a_new_run_puts_older_records_aside(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    for run in range(3):
        records(path, range(run + 1))
    steps = {p.name: len(list(read_jsonl(p))) for p in tmp_path.iterdir()}
    assert steps == {"run.1.jsonl": 2, "run.2.jsonl": 3, "run.jsonl": 4}


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NanochatError, match="cannot be written"):
        JsonLines(tmp_path / "file" / "run.jsonl")


# --- all sinks --------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_warns_once_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = JsonLines(tmp_path / "good.jsonl")
    sinks = Sinks({"full": JsonLines(Path("/dev/full")), "good": good})
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            sinks.write(step, {"train/loss": 1.0})
        sinks.close()
    assert len(caplog.records) == 1
    assert "full takes no more metrics" in caplog.text
    assert os.strerror(errno.ENOSPC) in caplog.text and "training goes on" in caplog.text
    assert len(list(read_jsonl(tmp_path / "good.jsonl"))) == 3


def test_wandb_missing_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    path = tmp_path / "run.jsonl"
    records(path, range(3))
    before = path.read_bytes()
    with pytest.raises(NanochatError, match="pip install wandb") as caught:
        open_sinks(path, run="mine")
    assert caught.value.exit_code == 1 and "--run mine" in str(caught.value)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_no_wandb_for_the_dummy_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    sinks = open_sinks(tmp_path / "run.jsonl")
    sinks.write(0, {"train/loss": 1.0})
    sinks.close()
    assert len(list(read_jsonl(tmp_path / "run.jsonl"))) == 1


@pytest.mark.slow
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    sinks = open_sinks(tmp_path / "run.jsonl", run="mine", config={"depth": 4})
    sinks.write(0, {"train/loss": 1.0})
    sinks.close()
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


def test_tensorboard_missing_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch.utils.tensorboard", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(NanochatError, match="pip install tensorboard"):
        open_sinks(tmp_path / "run.jsonl", tensorboard=tmp_path / "board")


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for steps, resume_at in ((range(5), None), (range(3, 8), 3)):
        sinks = open_sinks(
            tmp_path / "run.jsonl", tensorboard=tmp_path / "board", resume_at=resume_at
        )
        for step in steps:
            sinks.write(step, {"train/loss": float(step)})
        sinks.close()
    events = reader.EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [
        (s, float(s)) for s in range(8)
    ]

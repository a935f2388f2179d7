"""Following a run by files that grow while they are read."""

from __future__ import annotations

import json
from pathlib import Path

from doctor.launch.follow import Lines, Run, last_lines


def add(path: Path, *records: object, end: str = "\n") -> None:
    with path.open("a") as file:
        file.write("\n".join(json.dumps(r) for r in records) + end)


def test_only_whole_lines_are_taken_and_each_once(tmp_path: Path) -> None:
    path = tmp_path / "status.jsonl"
    lines = Lines(path)
    assert list(lines.new()) == []  # not there yet
    add(path, {"a": 1}, {"a": 2})
    path.open("a").write('{"a": 3')
    assert [r["a"] for r in lines.new()] == [1, 2]
    path.open("a").write("}\nno json\n[1]\n")
    add(path, {"a": 4})
    assert [r["a"] for r in lines.new()] == [3, 4]
    assert list(lines.new()) == []
    path.write_text('{"a": 5}\n')  # begun anew
    assert [r["a"] for r in lines.new()] == [5]


def test_what_an_earlier_run_wrote_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "status.jsonl"
    add(path, {"stage": "base", "event": "failed", "status": 1})
    run = Run(path, tmp_path / "metrics.jsonl", 10)
    assert run.update() == [] and run.failed is None
    add(path, {"stage": "data", "event": "start", "status": 0, "log": "/l"})
    assert [s.name for s in run.update()] == ["data"]
    assert run.current and run.current.name == "data"
    add(path, {"stage": "data", "event": "done", "status": 0, "log": "/l"})
    add(path, {"stage": "tokenizer", "event": "skipped", "status": 0, "log": None})
    assert [run.line(s).split(":")[0] for s in run.update()] == ["✓ data", "✓ tokenizer"]
    assert run.current is None and "done before" in run.line(run.stages[1])
    add(path, {"stage": "base", "event": "start", "status": 0, "log": "/b"})
    add(path, {"stage": "base", "event": "failed", "status": 143, "log": "/b"})
    run.update()
    assert run.failed and (run.failed.status, run.failed.log) == (143, "/b")


def test_progress_of_training(tmp_path: Path) -> None:
    status, metrics = tmp_path / "status.jsonl", tmp_path / "metrics.jsonl"
    run = Run(status, metrics, steps=101)
    add(status, {"stage": "base", "event": "start", "status": 0, "log": "/b"})
    run.update()
    assert "first step" in run.line(run.stages[0])
    add(metrics, {"step": 0, "val/bpb": 3.25})
    for step in range(41):
        add(
            metrics, {"step": step, "train/loss": 5.5, "train/dt": 2.0, "train/tok_per_sec": 1234.4}
        )
    run.update()
    assert run.line(run.stages[0]) == (
        "▶ base: step 41 of 101, loss 5.500, 1,234 tokens/s, 3.2500 bits per byte, 2 minutes left"
    )
    assert run.progress.left == 120.0


def test_tails(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 100_000 + b"\n\nbefore\n\xff last\n\n")
    assert last_lines(log, 2) == ["before", "\ufffd last"]
    assert last_lines(tmp_path / "absent") == []

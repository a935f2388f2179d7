"""Follows a run by the files that its stages write: which stage, how far, how fast; live or line by line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from doctor.text.quantities import clock, estimate
from doctor.text.visible import visible

MARKS = {"start": "▶", "done": "✓", "failed": "✗", "skipped": "✓"}


class Lines:
    """New whole lines of JSON in a file that grows; what is no JSON is passed over."""

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self.path = path
        self._read = path.stat().st_size if from_end and path.exists() else 0

    def new(self) -> Iterator[dict[str, Any]]:
        """What was written since the last call."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(self._read if size >= self._read else 0)
                data = file.read()
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._read = (self._read if size >= self._read else 0) + len(whole)
        for line in whole.splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record


@dataclass
class Stage:
    """One stage of a run."""

    name: str
    state: str = "start"
    began: float = 0.0
    ended: float | None = None
    log: str = ""
    status: int = 0


@dataclass
class Training:
    """How far the training of a model is."""

    steps: int
    step: int | None = None
    loss: float | None = None
    rate: float | None = None
    seconds: float | None = None
    """Of one step."""
    bpb: float | None = None

    def take(self, record: Mapping[str, Any]) -> None:
        """Add one record of metrics.jsonl."""
        self.bpb = record.get("val/bpb", self.bpb)
        if "train/loss" not in record:
            return
        self.step = record.get("step", self.step)
        self.loss, self.rate = record["train/loss"], record.get("train/tok_per_sec")
        now = record.get("train/dt")
        if isinstance(now, float):
            self.seconds = now if self.seconds is None else 0.9 * self.seconds + 0.1 * now

    @property
    def left(self) -> float | None:
        """Seconds to the end; None before the first step."""
        if self.step is None or self.seconds is None:
            return None
        return max(0, self.steps - self.step - 1) * self.seconds

    def __str__(self) -> str:
        if self.step is None:
            return "the first step is on its way"
        parts = [f"step {self.step + 1:,} of {self.steps:,}", f"loss {self.loss:.3f}"]
        parts += [f"{self.rate:,.0f} tokens/s"] if self.rate else []
        parts += [f"{self.bpb:.4f} bits per byte"] if self.bpb is not None else []
        parts += [f"{estimate(self.left)} left"] if self.left is not None else []
        return ", ".join(parts)


@dataclass
class Run:
    """A run as its files tell it.

    Args:
        status: the file to which the scripts write a line when a stage starts and ends.
        metrics: the file to which training writes a line a step.
        steps: how many there will be.
        training: name of the stage that writes `metrics`.
    """

    status: Path
    metrics: Path
    steps: int
    training: str = "base"
    stages: list[Stage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.progress = Training(self.steps)
        self._status = Lines(self.status, from_end=True)
        self._metrics = Lines(self.metrics, from_end=True)

    def update(self) -> list[Stage]:
        """Read what is new; the stages whose state has changed."""
        changed = []
        for record in self._status.new():
            stage = self._stage(str(record.get("stage", "")))
            stage.state = str(record.get("event", ""))
            stage.log = str(record.get("log") or stage.log)
            if stage.state == "start":
                stage.began, stage.ended = time.monotonic(), None
            else:
                stage.ended = time.monotonic()
                stage.status = int(record.get("status") or 0)
            changed.append(stage)
        for record in self._metrics.new():
            self.progress.take(record)
        return changed

    def _stage(self, name: str) -> Stage:
        for stage in self.stages:
            if stage.name == name:
                return stage
        self.stages.append(Stage(name, began=time.monotonic()))
        return self.stages[-1]

    @property
    def current(self) -> Stage | None:
        """The stage that is running."""
        return next((s for s in reversed(self.stages) if s.state == "start"), None)

    @property
    def failed(self) -> Stage | None:
        """The stage that failed."""
        return next((s for s in self.stages if s.state == "failed"), None)

    def line(self, stage: Stage) -> str:
        """A stage in one line."""
        took = (stage.ended or time.monotonic()) - stage.began
        mark = MARKS.get(stage.state, "?")
        if stage.state == "skipped":
            return f"{mark} {stage.name}: done before"
        if stage.state == "start" and stage.name == self.training:
            return f"{mark} {stage.name}: {self.progress}"
        return f"{mark} {stage.name}: {clock(took)}"


def last_lines(path: Path, count: int = 8) -> list[str]:
    """The last lines of a log, without those that are empty."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 16384))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [visible(line, lines=True) for line in text.splitlines() if line.strip()][-count:]

"""How far a build is: objects, rate, time left by the objects' weights, memory, the heaviest of the moment."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from doctor.compile.ninja import ninja
from doctor.compile.ninja.weights import Weights
from doctor.planner.build.jobs import Jobs
from doctor.text.bounded import read_text
from doctor.text.quantities import clock, memory
from doctor.work.events import Reporter
from doctor.work.processes import Sample, Sampler

OTHER_SECONDS = 0.5
"""For what is no object: linking, generating, copying."""

LEARN_SECONDS = 60.0
"""Between two times that what objects cost is written down, for builds that are killed."""

PRIOR_SECONDS = 1200.0
"""Work, in seconds of a core, at which the pace so far counts as much as the table's."""


class Meter:
    """Listens to one run of ninja, looks at its processes, and remembers what objects cost."""

    def __init__(
        self, build: Path, weights: Weights, jobs: Jobs, reporter: Reporter, mark: str
    ) -> None:
        self.build, self.weights, self.jobs, self.reporter = build, weights, jobs, reporter
        self.sampler = Sampler(mark)
        self.sample = Sample(0, {})
        self.start = time.monotonic()
        self.learned = self.start
        self.before = ninja.read_log(build)
        names = ninja.objects(read_text(build / "build.ninja") or "")
        self.all_objects = len(names)
        self.left = {n: weights.seconds(n) for n in names if n not in self.before}
        self.made_before = self.all_objects - len(self.left)
        self.done_weight = 0.0
        self.now: ninja.Progress | None = None

    def heard(self, line: str) -> None:
        """Take a line of ninja's."""
        status = ninja.parse_status(line)
        if status is None:
            return
        self.now = status
        name = status.object
        self.done_weight += self.left.pop(name, 0.0) if name else OTHER_SECONDS
        self._say()

    def tick(self) -> None:
        """Measure memory, about once a second; write down now and then what was learned."""
        self.sample = self.sampler.sample()
        if time.monotonic() - self.learned > LEARN_SECONDS:
            self.learn()
        self._say()

    def _say(self, last: bool = False) -> None:
        """Say how far it is, where it is time to: reckoning it for every line would cost more than ninja."""
        if self.now and (last or self.reporter.due()):
            self.reporter.progress(self.text(), **self.fields())

    @property
    def done(self) -> int:
        """Objects that are there, those of earlier runs counted."""
        return self.all_objects - len(self.left)

    def seconds_left(self) -> float | None:
        """By the weight of what is left, at the pace so far; None where nothing was heard yet.

        The weights' own pace counts as if some work had been done at it, so that the first object
        of a build does not decide.
        """
        if self.now is None:
            return None
        took = time.monotonic() - self.start + PRIOR_SECONDS / max(1, self.jobs.wide)
        return sum(self.left.values()) * took / (self.done_weight + PRIOR_SECONDS)

    def text(self) -> str:
        """The live line."""
        took = max(0.001, time.monotonic() - self.start)
        rate = (self.done - self.made_before) / took * 60
        left = self.seconds_left()
        parts = [f"{self.done}/{self.all_objects} objects", f"{rate:.0f}/min"]
        if left is not None:
            parts.append(f"{clock(left)} left")
        parts.append(memory(self.sample.total))
        if self.sample.heaviest:
            name, taken = self.sample.heaviest
            parts.append(f"{name.rsplit('/', 1)[-1]} {memory(taken)}")
        return " · ".join(parts)

    def fields(self) -> dict[str, Any]:
        """The same for a program."""
        left = self.seconds_left()
        heaviest = self.sample.heaviest
        return {
            "done": self.done,
            "total": self.all_objects,
            "running": self.now.running if self.now else 0,
            "seconds_left": None if left is None else round(left),
            "memory_mb": self.sample.total,
            "heaviest": heaviest[0] if heaviest else None,
        }

    def learn(self) -> None:
        """Remember what this run's objects took, finished or not."""
        self.learned = time.monotonic()
        made = {
            name: entry.seconds
            for name, entry in ninja.read_log(self.build).items()
            if self.before.get(name) != entry and name.endswith((".o", ".obj"))
        }
        if made:
            self.weights.learn(made, self.sampler.peaks)

    def finish(self) -> None:
        """Say the last state, however short ago another was said."""
        self.left.clear()
        self._say(last=True)
        self.reporter.clear()

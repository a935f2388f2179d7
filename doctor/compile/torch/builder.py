"""Configures, compiles and packs a tree; a compiler that is killed for memory costs jobs, not the build."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from doctor.compile.ninja import ninja
from doctor.compile.ninja.diagnosis import Diagnosis, diagnose
from doctor.compile.ninja.progress import Meter
from doctor.compile.ninja.weights import Weights
from doctor.compile.source.fingerprint import Fingerprint, State, write_state
from doctor.errors import DoctorError
from doctor.planner.build.jobs import Jobs
from doctor.planner.build.tree import Tree
from doctor.work.events import Reporter
from doctor.work.run import run

SAMPLE_SECONDS = 1.0

SCRATCH = "scratch"


class BuildFailed(DoctorError):
    """A build that ended badly; what the compiler said comes with it."""

    def __init__(self, failure: Diagnosis, log: Path) -> None:
        what = f"{failure.object}: " if failure.object else ""
        said = "".join(f"\n    {line}" for line in failure.said)
        super().__init__(
            f"{what}{failure.cause} ({failure.code}); {failure.cure}.{said}\nThe whole log: {log}"
        )
        self.failure = failure
        self.log = log


@dataclass
class Builder:
    """One build of one tree.

    Attributes:
        env: of every program that is run; MAX_JOBS is added.
        mark: of its processes (see `processes`).
        dist: where the wheel is put; not the cache itself.
    """

    tree: Tree
    python: str
    env: Mapping[str, str]
    jobs: Jobs
    weights: Weights
    reporter: Reporter
    log: Path
    dist: Path
    mark: str
    fingerprint: Fingerprint
    lines: list[str] = field(default_factory=list)

    def build(self) -> Path:
        """Do all that is left to do; the wheel.

        Raises:
            BuildFailed: a program failed.
            DoctorError: a program or file cannot be used.
            Stopped: a signal came; all compilers are gone by then, and the build can go on later.
        """
        driver = self.tree.driver
        if not (self.tree.build / "build.ninja").exists():
            self._stage("configuring")
            self.reporter.event("configure", "Configuring …")
            self._once(self._words(driver["configure"]))
            # a builder that cannot only configure has packed a wheel of nothing
            shutil.rmtree(self.dist / SCRATCH, ignore_errors=True)
        self._stage("compiling")
        self._compile(driver["compile"])
        self._stage("packing")
        self.reporter.event("pack", "Packing the wheel …")
        self._once(self._words(driver["pack"]))
        wheels = sorted(self.dist.glob("*.whl"), key=lambda path: path.stat().st_mtime)
        if not wheels:
            raise BuildFailed(diagnose(self.lines[-200:], 0), self.log)
        return wheels[-1]

    def _stage(self, name: str) -> None:
        write_state(self.tree.build, State(self.fingerprint, name))

    def done(self) -> None:
        """Write down that nothing is left to do."""
        self._stage("done")

    def _words(self, command: Sequence[str]) -> list[str]:
        values = {
            "python": self.python,
            # another ninja than the one that CMake found may not read its log, and begin anew
            "ninja": ninja.program(self.tree.build) or "ninja",
            "jobs": str(self.jobs.wide),
            "dist": str(self.dist),
            "scratch": str(self.dist / SCRATCH),
        }
        return [word.format_map(values) for word in command]

    def _environment(self) -> dict[str, str]:
        wide = str(self.jobs.wide)
        return {
            **self.env,
            "MAX_JOBS": wide,
            "CMAKE_BUILD_PARALLEL_LEVEL": wide,
            "NINJA_STATUS": ninja.STATUS_FORMAT,
        }

    def _once(self, command: list[str]) -> None:
        status = self._run(command, None)
        if status:
            raise BuildFailed(diagnose(self.lines, status), self.log)

    def _compile(self, command: Sequence[str]) -> None:
        """Compile, with fewer jobs each time that memory runs out."""
        while True:
            self._set_pool()
            meter = Meter(self.tree.build, self.weights, self.jobs, self.reporter, self.mark)
            try:
                status = self._run(self._words(command), meter)
            finally:
                meter.learn()
            if status == 0:
                meter.finish()
                return
            failure = diagnose(self.lines, status)
            if failure.code != "build.out-of-memory" or self.jobs.wide == 1:
                raise BuildFailed(failure, self.log)
            self.jobs = replace(
                self.jobs, wide=self.jobs.wide // 2, heavy=max(1, self.jobs.heavy // 2)
            )
            self.reporter.event(
                "out-of-memory",
                f"{failure.object or 'A program'} was killed for memory; going on with "
                f"{self.jobs.wide} jobs, {self.jobs.heavy} of them for heavy objects.",
                object=failure.object,
                jobs=self.jobs.wide,
                heavy_jobs=self.jobs.heavy,
            )

    def _set_pool(self) -> None:
        plan = self.tree.build / "build.ninja"
        if not plan.exists():
            return
        narrow = self.jobs.heavy < self.jobs.wide
        limit = self.jobs.heavy_from_gb
        heavy = ninja.set_pool(
            plan, lambda name: narrow and self.weights.is_heavy(name, limit), self.jobs.heavy
        )
        self.reporter.event(
            "jobs",
            f"{self.jobs.wide} jobs"
            + (f", {self.jobs.heavy} for the {heavy} heavy objects" if heavy else "")
            + ".",
            jobs=self.jobs.wide,
            heavy_jobs=self.jobs.heavy,
            heavy_objects=heavy,
        )

    def _run(self, command: list[str], meter: Meter | None) -> int:
        self.lines = []

        def heard(line: str) -> None:
            self.lines.append(line)
            if meter:
                meter.heard(line)

        if not os.path.isabs(command[0]):
            command = [_found(command[0], self.env), *command[1:]]
        start = time.monotonic()
        status = run(
            command,
            cwd=self.tree.path,
            env=self._environment(),
            log=self.log,
            mark=self.mark,
            heard=heard,
            tick=meter.tick if meter else lambda: None,
            tick_seconds=SAMPLE_SECONDS,
        )
        self.reporter.clear()
        self.reporter.event(
            "program", command=command, status=status, seconds=round(time.monotonic() - start, 1)
        )
        return status


def _found(name: str, env: Mapping[str, str]) -> str:
    path = shutil.which(name, path=env.get("PATH"))
    if path is None:
        raise DoctorError(
            f"{name} is not installed; install it into the Python environment with pip."
        )
    return path

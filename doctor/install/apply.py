"""Carries out the steps of a plan: shows what will change, asks, does it, and proves each step by its effect."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from doctor.environment import pins
from doctor.environment.command_line import Line, parse
from doctor.environment.place import Place, target
from doctor.errors import DoctorError
from doctor.install import effects, journal, preview, snapshot
from doctor.install.effects import REPLACING, Effect
from doctor.install.session import JOURNAL, LOCK, Session, session
from doctor.planner.terms.plan import Plan, Step
from doctor.planner.tokenizer import CODE as UNOBTAINABLE
from doctor.work.programs import Say

STEP_SECONDS = 4 * 3600.0
"""Time that a command of a step may take; `PATIENCE` times its estimate where that is longer."""

PATIENCE = 10


@dataclass(frozen=True)
class StepResult:
    """How a step went: `done` or `already done`, and the seconds that it took."""

    id: str
    outcome: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Result:
    """What apply or undo did.

    Attributes:
        changed: whether anything was done at all.
        declined: whether the user said no.
        notes: what could not be done and does not stop the work.
    """

    changed: bool
    declined: bool = False
    steps: tuple[StepResult, ...] = ()
    notes: tuple[str, ...] = ()


def apply(
    plan: Plan,
    *,
    checkout: Path,
    confirm: Callable[[str], bool] | None,
    say: Say,
    state: Path | None = None,
    wait: bool = False,
    seconds: float = STEP_SECONDS,
) -> Result:
    """Carry a plan out; what is there already is left alone, so that it goes on where it stopped.

    Args:
        checkout: the repository's folder, in which commands run.
        confirm: asks the user a question; None goes on without.
        say: hears a line at each step.
        state: folder of journal, snapshot and logs; by default below the environment's prefix.
        wait: wait for another apply in the same environment rather than give up.
        seconds: time that a command may take.

    Raises:
        DoctorError: a step failed, the disk is too small, the environment cannot be written, or
            another apply holds it.
    """
    if plan.route == "blocked" or plan.python is None:
        raise DoctorError(f"There is nothing to apply: {plan.reason}")
    for finding in plan.findings:
        if finding.code == UNOBTAINABLE:
            raise DoctorError(f"Nothing was downloaded: {finding.cause} {finding.remedy.text}")
    place = target(plan.python, checkout, state)
    lines = {step.id: tuple(map(parse, step.commands)) for step in plan.steps}
    is_new = not place.prefix.exists()
    try:
        with session(place, fingerprint(plan), say=say, wait=wait, seconds=seconds) as run:
            return _Application(plan, run, lines, confirm).run()
    finally:
        if is_new:
            _tidy(place)


def fingerprint(plan: Plan) -> str:
    """Tells one plan from another by what it installs and where."""
    torch = asdict(plan.torch) if plan.torch else None
    parts = [plan.route, plan.python, torch, [(step.id, step.commands) for step in plan.steps]]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def _tidy(place: Place) -> None:
    """Leave no folder behind where nothing was made in the end: it would look like an environment."""
    if place.exists or (place.state / snapshot.NAME).exists():
        return
    for path in (place.state / LOCK, place.state / JOURNAL):
        with contextlib.suppress(OSError):
            path.unlink()
    for folder in (place.state, place.prefix):
        with contextlib.suppress(OSError):
            folder.rmdir()


class _Application:
    """One apply, alone in its environment."""

    def __init__(
        self,
        plan: Plan,
        run: Session,
        lines: Mapping[str, Sequence[Line]],
        confirm: Callable[[str], bool] | None,
    ) -> None:
        self.plan = plan
        self.session = run
        self.target = run.target
        self.say = run.say
        self.lines = lines
        self.confirm = confirm
        self.notes: list[str] = []
        self.ready = False
        """Whether torch is what the plan wants, so that it may be pinned."""

    def run(self) -> Result:
        """Do all of it."""
        self.pinned = pins.read(self.target.prefix, self.target.state)
        lacking = {step.id: self._missing(step) for step in self.plan.steps}
        todo = [step for step in self.plan.steps if lacking[step.id] is not None]
        begun = self.session.journal.unfinished()
        if not todo and begun is None:
            self.say("everything in the plan is there already")
            self.ready = True
            if self.pinned or self._was_cut_off():
                # An environment that apply has never changed is not ours to hold.
                self._settle_pins()
            self._complete()
            steps = tuple(StepResult(step.id, "already done") for step in self.plan.steps)
            return Result(False, steps=steps, notes=tuple(self.notes))
        preview.require_room(self.target, todo)
        preview.announce(self.session, self.lines, todo, lacking, begun)
        if self.confirm is not None and not self.confirm("Go ahead?"):
            return Result(False, declined=True)
        try:
            self.session.mend(begun)
            if begun is not None:
                lacking = {step.id: self._missing(step) for step in self.plan.steps}
            if any(reason is not None for reason in lacking.values()):
                self._keep_way_back()
            count = len(self.plan.steps)
            results = []
            for number, step in enumerate(self.plan.steps, start=1):
                fresh = lacking[step.id] is not None
                reason = self._missing(step) if fresh else None
                results.append(self._step(step, f"[{number}/{count}]", reason))
            self.ready = True
        finally:
            self._settle_pins()
        self._complete()
        return Result(True, steps=tuple(results), notes=tuple(self.notes))

    def _missing(self, step: Step) -> str | None:
        return effects.missing(Effect(self.plan, step, self.target))

    # --- the way back -------------------------------------------------------------------

    def _keep_way_back(self) -> None:
        """Note what is installed, unless a plan or an undo that was not finished has left a note of before it."""
        kept = snapshot.read(self.target.state)
        if kept is None or kept.complete:
            snapshot.take(self.target, self.session.plan).save(self.target.state)

    def _was_cut_off(self) -> bool:
        """Whether an apply before this one did its steps, and was killed before it said so."""
        kept = snapshot.read(self.target.state)
        return kept is not None and not kept.complete

    def _complete(self) -> None:
        kept = snapshot.read(self.target.state)
        if kept is not None and not kept.complete:
            replace(kept, complete=True).save(self.target.state)

    # --- steps ---------------------------------------------------------------------------

    def _step(self, step: Step, label: str, reason: str | None) -> StepResult:
        """Carry one step out, unless its effect is there."""
        if reason is None:
            self.say(f"{label} {step.title}: already done")
            self.session.journal.add(journal.SKIPPED, step.id, self.session.plan)
            return StepResult(step.id, "already done")
        self.say(f"{label} {step.title}")
        began = time.monotonic()
        held = self._pin(step)
        self._guard(step, held)
        with self.session.noted(step.id) as before:
            self._run(step, before)
            self._require_held(step, held)
        seconds = time.monotonic() - began
        self.say(f"{label} {step.title}: done in {seconds:.0f} s")
        return StepResult(step.id, "done", seconds)

    def _run(self, step: Step, before: Mapping[str, Any]) -> None:
        """Run the commands, and look for the effect.

        Raises:
            DoctorError: it is not there, or something is half-installed.
        """
        constraints = self.target.state / pins.NAME
        attempt = self.session.run(
            step.id,
            self.lines[step.id],
            constraints=constraints if constraints.exists() else None,
            seconds=max(self.session.seconds, step.minutes * 60 * PATIENCE),
        )
        reason = self._missing(step)
        if reason is not None or (attempt.ended.failed and self.session.half_installed(before)):
            raise attempt.error(step.id, reason, self.say)
        if attempt.ended.failed:
            self.notes.append(
                f"A command of step {step.id} ended with status {attempt.ended.status}, though all that it "
                f"is for is there ({attempt.log})."
            )

    def _pin(self, step: Step) -> dict[str, str]:
        """Pin what this step must not replace; returns it."""
        wanted = pins.wanted(self.target) if self.target.exists else {}
        may_replace = REPLACING.get(step.id, ())
        held = {} if may_replace is None else pins.without(wanted, may_replace)
        pins.hold(self.target, held)
        return held

    def _guard(self, step: Step, held: Mapping[str, str]) -> None:
        """Rehearse a step that must leave torch alone.

        Raises:
            DoctorError: it would not.
        """
        if step.id in REPLACING or not self.target.exists:
            return
        now = {name: item.version for name, item in self.target.installed().items()}
        for line in self.lines[step.id]:
            for change in preview.rehearsed(self.session, line, now) or ():
                if change.name in held or (change.name == "torch" and change.before is None):
                    raise DoctorError(
                        f"Step {step.id} would change {change}, which the plan leaves alone, so nothing was "
                        "done; make the plan again."
                    )

    def _require_held(self, step: Step, held: Mapping[str, str]) -> None:
        now = self.target.installed() if held else {}
        for name, version in held.items():
            if name not in now or now[name].version != version:
                found = now[name].version if name in now else "nothing"
                raise DoctorError(
                    f"Step {step.id} has put {name} {found} in the place of {version}, which the plan leaves "
                    "alone; run apply --undo, which puts it back."
                )

    def _settle_pins(self) -> None:
        """Pin the torch that is right; one that is not keeps the pins it had, if it is the same still."""
        if not self.target.exists:
            return
        wanted = pins.wanted(self.target)
        if not self.ready:
            same = bool(self.pinned) and all(
                wanted.get(name) == version for name, version in self.pinned.items()
            )
            wanted = self.pinned if same else {}
        self.notes += pins.hold(self.target, wanted if "torch" in wanted else {})

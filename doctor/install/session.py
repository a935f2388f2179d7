"""What apply and undo have in common: commands under a lock, each noted before and after."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from doctor.environment import command_line, integrity, pins
from doctor.environment.command_line import Line
from doctor.environment.place import Place
from doctor.errors import DoctorError
from doctor.install import journal, ledger
from doctor.install.causes import cause
from doctor.install.effects import DATA_STEPS
from doctor.install.journal import Entry, Journal
from doctor.work.lock import LOCK_VARIABLE, exclusive
from doctor.work.programs import Ended, Log, Say, signals_raise, with_own_path

LOCK, JOURNAL, LOGS, ASIDE = "lock", "journal.jsonl", "logs", "set-aside"
TAIL, READ = 8, 200
"""Last lines of a failed command that are shown, and in which its cause is looked for."""

REASON_SECONDS = 30.0
REFUSED = re.compile(r"Could not fetch URL \S+ (\d{3} (?:Client|Server) Error)")
"""What pip says of a page with -v."""


@dataclass
class Session:
    """One run of apply or undo, alone in its environment.

    Attributes:
        plan: fingerprint of the plan.
        seconds: time that a command may take.
        lock: descriptor of the lock, which commands inherit.
    """

    target: Place
    plan: str
    say: Say
    lock: int
    seconds: float
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        self.journal = Journal(self.target.state / JOURNAL)

    # --- commands ------------------------------------------------------------------------

    def variables(self, line: Line, constraints: Path | None = None) -> dict[str, str]:
        """The environment of a command; what lies beside our own interpreter is found, too."""
        base = with_own_path(os.environ) | {LOCK_VARIABLE: str(self.target.state / LOCK)}
        return command_line.variables(line, base, constraints)

    def run(
        self,
        step: str,
        lines: Sequence[Line],
        *,
        constraints: Path | None = None,
        seconds: float | None = None,
    ) -> Attempt:
        """Run commands one after another, up to the first that fails, into a new log."""
        seconds = seconds or self.seconds
        stamp = time.strftime("%Y%m%d-%H%M%S")
        log = Log(self.target.state / LOGS / f"{stamp}-{step}.log", inherit=(self.lock,))
        ended = Ended(0)
        for line in self._with_pip(lines):
            ledger.begin(self.target, line)
            ended = log.run(
                line.words,
                cwd=self.target.checkout,
                env=self.variables(line, constraints),
                seconds=seconds,
            )
            try:
                ledger.settle(self.target)
            except DoctorError:
                # of a disk that is full, most likely; why the command failed says more, and the next start settles
                if not ended.failed:
                    raise
            if ended.failed:
                ended = replace(ended, lines=(*ended.lines, *self._refusals(line, ended)))
                break
        return Attempt(ended, log.path, seconds, pins.read(self.target.prefix, self.target.state))

    def _refusals(self, line: Line, ended: Ended) -> list[str]:
        """Why pip finds no version, which it tells only when it is asked to be talkative: 401, 403."""
        known = cause(ended.lines)
        if line.tool != "pip" or known is None or known.name != "no-version":
            return []
        words = (*line.words, "--dry-run", "--no-deps", "-v")
        try:
            done = subprocess.run(
                words,
                cwd=self.target.checkout,
                env=self.variables(line),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=min(REASON_SECONDS, self.seconds),
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return []
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        # without the address: an index may be private
        return [f"Could not fetch its page: {reason}" for reason in REFUSED.findall(said)]

    def _with_pip(self, lines: Sequence[Line]) -> Iterator[Line]:
        """The lines, and before the first that needs it the pip that an environment of uv's lacks."""
        for line in lines:
            if line.needs_pip and "pip" not in self.target.installed():
                yield Line({}, (self.target.python, "-m", "ensurepip"))
            yield line

    # --- notes ---------------------------------------------------------------------------

    def state_of_site(self) -> dict[str, Any]:
        """What is damaged and what belongs to nobody, to tell it from what a kill leaves."""
        if not self.target.exists:
            return {"damaged": [], "unowned": None}
        site = self.target.site
        return {
            "damaged": sorted(integrity.damaged(site)),
            "unowned": sorted(integrity.unowned(site)),
        }

    @contextlib.contextmanager
    def noted(self, step: str) -> Iterator[Mapping[str, Any]]:
        """Note the begin and the end of a step, whatever that is; yields the `state_of_site` before it.

        An end that leaves a package half-installed is noted as broken, and mended first the next time.
        """
        before = self.state_of_site()
        began = time.monotonic()
        try:
            self.journal.add(journal.BEGIN, step, self.plan, **before)
            yield before
        except BaseException as error:
            rubbish = self.half_installed(before)
            event = journal.BROKEN if rubbish else journal.FAILED
            reason = str(error) or type(error).__name__
            # a full disk takes no line either; a begin without an end says broken, too
            with contextlib.suppress(DoctorError):
                self.journal.add(event, step, self.plan, reason=reason, half_installed=rubbish)
            raise
        seconds = round(time.monotonic() - began, 1)
        self.journal.add(journal.DONE, step, self.plan, seconds=seconds)

    def half_installed(self, before: Mapping[str, Any]) -> list[str]:
        """What was not so before: packages that are not whole, and what belongs to nobody."""
        if not self.target.exists or before["unowned"] is None:
            return []
        now = self.state_of_site()
        return sorted(
            name for key in ("damaged", "unowned") for name in set(now[key]) - set(before[key])
        )

    def mend(self, begun: Entry | None) -> None:
        """Put right what an earlier run was cut off in: set aside what is half-installed.

        Raises:
            DoctorError: it cannot be moved.
        """
        if begun is not None and self.target.exists and begun.step not in DATA_STEPS:
            site = self.target.site
            known = begun.details.get("unowned")
            known = integrity.unowned(site) if known is None else known
            found = integrity.leftovers(site, begun.details.get("damaged", ()), known)
            if found.names:
                folder = self._aside()
                self.say(
                    f"sets aside what was half-installed or is nobody's: {', '.join(found.names)}"
                )
                integrity.set_aside(site, found, folder)
                if folder.exists():
                    self.say(f"  it is in {folder}; what you do not miss there may go")
        ledger.settle(self.target, cut_off=True)
        if begun is not None:
            self.journal.add(journal.REPAIRED, begun.step, self.plan)

    def _aside(self) -> Path:
        """A folder that is not there yet."""
        first = self.target.state / ASIDE / time.strftime("%Y%m%d-%H%M%S")
        others = (first.with_name(f"{first.name}-{number}") for number in count(2))
        return next(path for path in chain([first], others) if not path.exists())


@dataclass(frozen=True)
class Attempt:
    """How the commands of a step ended, and where their output is."""

    ended: Ended
    log: Path
    seconds: float
    held: Mapping[str, str] = field(default_factory=dict)
    """What the commands had to leave in place."""

    def error(self, step: str, reason: str | None, say: Say) -> DoctorError:
        """Show the last lines; the sentence says which step failed, why, and where all of it is.

        Args:
            reason: what the step's effect lacks.
        """
        said = [line for line in self.ended.lines[-READ:] if line]
        for text in said[-TAIL:]:
            say(f"  {text}")
        known = cause(said, self.held) if self.ended.failed else None
        cure = "start again, it goes on there"
        if self.ended.expired:
            why = f"its command was not done within {self.seconds:.0f} s"
        elif known:
            why, cure = known.why, known.cure
        elif self.ended.status < 0:
            why = f"its command was killed by signal {-self.ended.status}"
            if self.ended.status == -signal.SIGKILL:
                why, cure = f"{why}, mostly for want of memory", "free memory and start again"
        elif self.ended.failed:
            why = f"its command ended with status {self.ended.status}"
        else:
            why = f"its commands ended well, but {reason}"
        return DoctorError(f"Step {step} failed, because {why}; {cure} (all output: {self.log}).")


@contextlib.contextmanager
def session(target: Place, plan: str, *, say: Say, wait: bool, seconds: float) -> Iterator[Session]:
    """A session that holds the environment's lock; signals end its commands.

    Raises:
        DoctorError: another one holds it, or the environment cannot be written.
    """
    with signals_raise(), exclusive(target.state / LOCK, wait=wait, say=say) as held:
        yield Session(target, plan, say, held, seconds)

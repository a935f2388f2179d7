"""What apply, render and speedrun do, one layer under the command line: decide, install, write scripts, run them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from doctor import __version__
from doctor.cli.decision import Decided, checkout, decide, own_python
from doctor.cli.pages.plan import problem_lines, remark_lines, route_lines
from doctor.errors import DoctorError, WrongUsage
from doctor.launch import speedrun as runner
from doctor.machine.system import System
from doctor.planner.commands import typed
from doctor.planner.steps import cost
from doctor.planner.terms.plan import Plan, Wishes
from doctor.text.paper import Paper

if TYPE_CHECKING:
    from doctor.cli.telling import Telling
    from doctor.launch.render import Written


Confirm = Callable[[str], bool]


def confirmation(yes: bool, *, as_json: bool) -> Confirm | None:
    """What asks the user; None where he has said yes already. Asked for before anything is looked at or printed.

    Raises:
        WrongUsage: there is nobody to ask.
    """
    if yes:
        return None
    if as_json:
        raise WrongUsage("--json asks no questions; say --yes beside it to go on without.")
    if not sys.stdin.isatty():
        raise WrongUsage("There is nobody to ask here (no terminal); say --yes to go on without.")
    return lambda question: click.confirm(question, default=True)


def decide_here(
    system: System, wishes: Wishes, python: str | None, offline: bool, debug: bool, telling: Telling
) -> Decided:
    """The plan for this machine; its route is printed, and what the user should know of it.

    Raises:
        DoctorError: nothing can be done here until a person acts.
    """
    decided = decide(system, wishes, python=python, offline=offline, debug=debug)
    plan = decided.plan
    telling.event("plan", plan=plan.to_json())
    blocked = plan.route == "blocked"
    if not telling.as_json:
        paper = Paper.of(sys.stdout)
        paper.lines([*(problem_lines(plan, paper) if blocked else route_lines(plan, paper))])
        paper.lines([] if blocked else [*remark_lines(plan, paper), ""])
    if blocked:
        raise DoctorError(f"Nothing can be installed here yet: {plan.reason}")
    return decided


def apply(plan: Plan, *, confirm: Confirm | None, telling: Telling) -> bool:
    """Carry out the steps of a plan; whether anything was changed."""
    from doctor.install.apply import apply as carry_out

    for line in _proven_nightly(plan):
        telling.say(line)
    result = carry_out(plan, checkout=checkout(), confirm=confirm, say=telling.say)
    if result.declined:
        raise DoctorError("Nothing was changed, as you said no.")
    for note in result.notes:
        telling.say(f"note: {note}")
    telling.event("applied", **asdict(result))
    return result.changed


def _proven_nightly(plan: Plan) -> list[str]:
    """What to go back to, where a nightly is about to go in."""
    from doctor.environment.place import target
    from doctor.install.proven import last_proven

    if plan.route != "nightly-wheel" or plan.python is None:
        return []
    known = last_proven(target(plan.python, checkout()).state)
    return [f"note: the last nightly that trained here is {' '.join(known)}"] if known else []


def _remember(plan: Plan) -> None:
    """A nightly that has trained a model is one to come back to."""
    from doctor.environment.place import target
    from doctor.install.proven import remember_proven

    version = plan.torch.version if plan.torch else None
    if plan.python and version and ".dev" in version:
        remember_proven(target(plan.python, checkout()).state, [f"torch=={version}"])


def undo(*, python: str | None, confirm: Confirm | None, telling: Telling) -> None:
    """Bring back what was installed before."""
    from doctor.environment.place import target
    from doctor.install.undo import undo as bring_back

    place = target(python or own_python(), checkout())
    result = bring_back(state=place.state, checkout=checkout(), confirm=confirm, say=telling.say)
    telling.event("undone", **asdict(result))


@dataclass(frozen=True)
class Scripts:
    """What was written.

    Attributes:
        command: what starts it.
        notes: of files that were edited.
    """

    folder: Path
    command: str
    files: tuple[Written, ...]

    @property
    def notes(self) -> list[str]:
        """What became of files that somebody has edited."""
        return [written.note for written in self.files if written.note]

    def to_json(self) -> dict[str, Any]:
        """The same for a program."""
        return {
            "folder": str(self.folder),
            "command": self.command,
            "files": [
                {
                    "path": str(written.path),
                    "action": written.action,
                    "beside": str(written.beside) if written.beside else None,
                }
                for written in self.files
            ],
        }


def write_scripts(
    decided: Decided,
    output: Path | None,
    *,
    target: str = "shell",
    stage: str | None = None,
    force: bool = False,
) -> Scripts:
    """Write the scripts of a plan.

    Raises:
        WrongUsage: there is no such stage.
        DoctorError: the plan starts nothing, or the folder cannot be written.
    """
    from doctor.launch.render import STAGES, checkout_from, inside, render, write

    plan = decided.plan
    if plan.launch is None:
        raise DoctorError(f"There is nothing to start on this machine: {plan.reason}")
    folder = (output or checkout() / "runs" / plan.launch.profile).absolute()
    files = render(
        replace(plan, python=inside(plan.python, checkout())),
        decided.facts,
        version=__version__,
        checkout=checkout_from(folder, checkout()),
        target=target,
        base_dir=decided.base_dir,
    )
    if stage is not None:
        names = [known.name for known in STAGES]
        if stage not in names:
            raise WrongUsage(f"There is no stage '{stage}'; choose one of {', '.join(names)}.")
        files = {n: text for n, text in files.items() if n in ("env.sh", "lib.sh", f"{stage}.sh")}
    written = tuple(write(files, folder, force=force))
    command = shlex.join(["bash", str(folder / f"{stage or 'speedrun'}.sh")])
    return Scripts(folder, command, written)


def speedrun(
    system: System,
    wishes: Wishes,
    *,
    python: str | None,
    output: Path | None,
    confirm: Confirm | None,
    offline: bool,
    debug: bool,
    telling: Telling,
) -> None:
    """Check, plan, apply, render, run.

    Into its own environment it installs without a question: that is what was asked for. Another one, named by
    --python, belongs to somebody.

    Raises:
        DoctorError: a step or a stage failed.
    """
    decided = decide(system, wishes, python=python, offline=offline, debug=debug)
    plan = decided.plan
    telling.event("plan", plan=plan.to_json())
    if plan.launch is None:
        if not telling.as_json:
            paper = Paper.of(sys.stdout)
            paper.lines([*problem_lines(plan, paper)])
        raise DoctorError(f"Nothing can be trained here yet: {plan.reason}")
    telling.say(f"{plan.reason} Route: {plan.route}; at most {cost(plan.steps)}.")
    for line in (*plan.notes, *plan.launch.warnings):
        telling.say(f"note: {line}")
    if apply(plan, confirm=confirm, telling=telling):
        # What is installed now is the plan's torch: the scripts are made for what is there.
        decided = decide(system, wishes, python=python, offline=True, debug=debug, hub=decided.hub)
    launch = decided.plan.launch
    assert launch is not None
    scripts = write_scripts(decided, output)
    for note in scripts.notes:
        telling.say(f"note: {note}")
    telling.say(f"scripts in {typed(shlex.quote(str(scripts.folder)))}")
    telling.event("scripts", **scripts.to_json())
    runner.run(scripts.folder, launch, telling.out)
    _remember(decided.plan)
    said, end = runner.model_said(launch), runner.sample(scripts.folder)
    if telling.as_json:
        telling.event("done", sample=said, text=end)
        return
    if said:
        click.echo(f"\n{said}")
    click.echo(f"\n{end}")

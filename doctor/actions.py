"""What apply, render and speedrun do, one layer under the command line: decide, install, write scripts, run them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from doctor import __version__
from doctor import speedrun as runner
from doctor.decision import Decided, checkout, decide, own_python
from doctor.errors import DoctorError, WrongUsage
from doctor.plan import Plan, Wishes
from doctor.planner.page import cost, print_plan
from doctor.system import System


def decide_here(
    system: System, wishes: Wishes, python: str | None, offline: bool, debug: bool
) -> Decided:
    """The plan for this machine, printed.

    Raises:
        DoctorError: nothing can be done here until a person acts.
    """
    decided = decide(system, wishes, python=python, offline=offline, debug=debug)
    print_plan(decided.plan, sys.stdout)
    if decided.plan.route == "blocked":
        raise DoctorError(f"Nothing can be installed here yet: {decided.plan.reason}")
    return decided


def apply(plan: Plan, *, yes: bool) -> bool:
    """Carry out the steps of a plan; whether anything was changed."""
    from doctor.builder.apply import apply as carry_out

    for line in _proven_nightly(plan):
        click.echo(line)
    result = carry_out(plan, checkout=checkout(), confirm=_confirm(yes), say=click.echo)
    for note in result.notes:
        click.echo(f"note: {note}")
    if result.declined:
        raise DoctorError("Nothing was changed, as you said no.")
    return result.changed


def _proven_nightly(plan: Plan) -> list[str]:
    """What to go back to, where a nightly is about to go in."""
    from doctor.builder.place import target
    from doctor.builder.proven import last_proven

    if plan.route != "nightly-wheel" or plan.python is None:
        return []
    known = last_proven(target(plan.python, checkout()).state)
    return [f"note: the last nightly that trained here is {' '.join(known)}"] if known else []


def _remember(plan: Plan) -> None:
    """A nightly that has trained a model is one to come back to."""
    from doctor.builder.place import target
    from doctor.builder.proven import remember_proven

    version = plan.torch.version if plan.torch else None
    if plan.python and version and ".dev" in version:
        remember_proven(target(plan.python, checkout()).state, [f"torch=={version}"])


def undo(*, python: str | None, yes: bool) -> None:
    """Bring back what was installed before."""
    from doctor.builder.place import target
    from doctor.builder.undo import undo as bring_back

    place = target(python or own_python(), checkout())
    bring_back(state=place.state, checkout=checkout(), confirm=_confirm(yes), say=click.echo)


def _confirm(yes: bool) -> Callable[[str], bool] | None:
    if yes:
        return None
    if not sys.stdin.isatty():
        raise WrongUsage("There is nobody to ask here (no terminal); say --yes to go on without.")
    return lambda question: click.confirm(question, default=True)


def write_scripts(
    decided: Decided,
    output: Path | None,
    *,
    target: str = "shell",
    stage: str | None = None,
    force: bool = False,
) -> Path:
    """Write the scripts of a plan; the folder that they are in.

    Raises:
        WrongUsage: there is no such stage.
        DoctorError: the plan starts nothing, or the folder cannot be written.
    """
    from doctor.render import STAGES, checkout_from, render, write

    plan = decided.plan
    if plan.launch is None:
        raise DoctorError(f"There is nothing to start on this machine: {plan.reason}")
    folder = output or checkout() / "runs" / plan.launch.profile
    files = render(
        plan,
        decided.facts,
        version=__version__,
        checkout=checkout_from(folder, checkout()),
        target=target,
    )
    if stage is not None:
        names = [known.name for known in STAGES]
        if stage not in names:
            raise WrongUsage(f"There is no stage '{stage}'; choose one of {', '.join(names)}.")
        files = {n: text for n, text in files.items() if n in ("env.sh", "lib.sh", f"{stage}.sh")}
    for written in write(files, folder, force=force):
        if written.note:
            click.echo(f"note: {written.note}")
    return folder


def speedrun(
    system: System,
    wishes: Wishes,
    *,
    python: str | None,
    output: Path | None,
    yes: bool,
    offline: bool,
    debug: bool,
) -> None:
    """Check, plan, apply, render, run.

    Into its own environment it installs without a question: that is what was asked for. Another one, named by
    --python, belongs to somebody.

    Raises:
        DoctorError: a step or a stage failed.
    """
    decided = decide(system, wishes, python=python, offline=offline, debug=debug)
    plan = decided.plan
    if plan.launch is None:
        print_plan(plan, sys.stdout)
        raise DoctorError(f"Nothing can be trained here yet: {plan.reason}")
    click.echo(f"{plan.reason} Route: {plan.route}; {cost(plan)} at most.")
    for line in (*plan.notes, *plan.launch.warnings):
        click.echo(f"note: {line}")
    if apply(plan, yes=yes or python is None):
        # What is installed now is the plan's torch: the scripts are made for what is there.
        decided = decide(system, wishes, python=python, offline=True, debug=debug)
    launch = decided.plan.launch
    assert launch is not None
    folder = write_scripts(decided, output)
    click.echo(f"scripts in {folder}")
    runner.run(folder, launch, sys.stdout)
    _remember(decided.plan)
    said = runner.model_said(launch)
    if said:
        click.echo(f"\n{said}")
    click.echo(f"\n{runner.sample(folder)}")

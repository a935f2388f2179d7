"""Brings back the packages that were installed before the last apply, whole or half-done."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from doctor.environment import pins
from doctor.environment.command_line import Line, parse
from doctor.environment.place import Place, target
from doctor.errors import DoctorError
from doctor.install import journal, snapshot
from doctor.install.apply import STEP_SECONDS, Result, StepResult
from doctor.install.session import Session, session
from doctor.install.snapshot import Difference, Package, Snapshot
from doctor.planner import commands
from doctor.work.programs import Say, has_uv


def undo(
    *,
    state: Path,
    checkout: Path,
    confirm: Callable[[str], bool] | None,
    say: Say,
    wait: bool = False,
    seconds: float = STEP_SECONDS,
) -> Result:
    """Bring back what was installed before the last apply; without one there is nothing to do.

    Args: as `doctor.install.apply.apply`; `state` is the folder `nanochat-doctor` below the prefix.

    Raises:
        DoctorError: something cannot be had again, or the environment cannot be written.
    """
    kept = snapshot.read(state)
    if kept is None:
        say("there is nothing to undo")
        return Result(False)
    place = target(kept.python, checkout, state)
    if not place.exists:
        raise DoctorError(
            f"{kept.python} is gone, so there is nothing to bring back; remove {state} with it."
        )
    with session(place, kept.plan, say=say, wait=wait, seconds=seconds) as run:
        kept = snapshot.read(state)  # another undo may have been faster
        return _undo(run, kept, confirm) if kept else Result(False)


def _undo(run: Session, kept: Snapshot, confirm: Callable[[str], bool] | None) -> Result:
    begun = run.journal.unfinished()
    _announce(run.say, snapshot.difference(kept, run.target))
    if confirm is not None and not confirm("Go ahead?"):
        return Result(False, declined=True)
    # from here on an apply must not take what is there for the way back
    replace(kept, complete=False).save(run.target.state)
    run.mend(begun)
    pins.lift(run.target)
    with run.noted(journal.UNDO):
        attempt = run.run(journal.UNDO, _lines(snapshot.difference(kept, run.target), run.target))
        left = snapshot.difference(kept, run.target)
        if left:
            names = [package.name for package in left.lost] + list(left.added)
            raise attempt.error(journal.UNDO, f"{', '.join(names)} is not as before", run.say)
    notes = pins.hold(run.target, kept.pinned)
    snapshot.forget(run.target.state)
    run.say(f"{run.target.prefix} has the packages of {kept.time} again")
    return Result(True, steps=(StepResult(journal.UNDO, "done"),), notes=tuple(notes))


def _announce(say: Say, difference: Difference) -> None:
    for package in difference.lost:
        say(f"  brings back {package.name} {package.version}")
    if difference.added:
        say(f"  removes {', '.join(difference.added)}")
    if not difference:
        say("  all packages are as before; the pins go")
    if difference.kept:
        say(f"  keeps {', '.join(difference.kept)}: installed since, or needed by what was")


def _lines(difference: Difference, place: Place) -> list[Line]:
    """Commands that bring back first and remove last: what cannot be had again shows in time."""
    now = place.installed()
    pip = commands.Target(place.python, uv=has_uv(os.environ))
    found = [
        commands.install(
            pip,
            [word for package in packages for word in package.requirement],
            index=packages[0].index,
            again=[package.name for package in packages if package.name in now],
            deps=False,
        )
        for packages in _together(difference.lost)
    ]
    # pip goes last: it may be what removes the others
    added = sorted(difference.added, key=lambda name: name == "pip")
    trees = [package for package in difference.lost if package.tree]
    gone = [*(p.name for p in trees if p.name in now), *added]
    found += [commands.uninstall(pip, *gone)] if gone else []
    return [*map(parse, found), *(_link(place, package) for package in trees)]


def _together(lost: Sequence[Package]) -> Iterator[list[Package]]:
    """Packages that one command brings back: those of an index, and each that has an address of its own."""
    plain = [package for package in lost if package.direct is None and package.tree is None]
    for _, group in groupby(sorted(plain, key=_index), key=_index):
        yield list(group)
    yield from ([package] for package in lost if package.direct is not None)


def _link(place: Place, package: Package) -> Line:
    return Line({}, (place.python, "-m", "doctor.environment.local_tree", str(package.tree)))


def _index(package: Package) -> str:
    return package.index or ""

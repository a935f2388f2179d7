"""Brings back the packages that were installed before the last apply, whole or half-done."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from doctor.builder import journal, pins, snapshot
from doctor.builder.apply import STEP_SECONDS, Result, StepResult
from doctor.builder.commands import Line, install_command, parse, uninstall_command
from doctor.builder.place import Target, target
from doctor.builder.session import Say, Session, session
from doctor.builder.snapshot import Difference, Package, Snapshot
from doctor.errors import DoctorError


def undo(
    *,
    state: Path,
    checkout: Path,
    confirm: Callable[[str], bool] | None,
    say: Say,
    wait: bool = False,
    seconds: float = STEP_SECONDS,
    live: Say | None = None,
) -> Result:
    """Bring back what was installed before the last apply; without one there is nothing to do.

    Args: as `doctor.builder.apply.apply`; `state` is the folder `nanochat-doctor` below the prefix.

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
    with session(place, kept.plan, say=say, wait=wait, seconds=seconds, live=live) as run:
        kept = snapshot.read(state)  # another undo may have been faster
        return _undo(run, kept, confirm) if kept else Result(False)


def _undo(run: Session, kept: Snapshot, confirm: Callable[[str], bool] | None) -> Result:
    begun = run.journal.unfinished()
    _announce(run.say, snapshot.difference(kept, run.target))
    if confirm is not None and not confirm("Go ahead?"):
        return Result(False, declined=True)
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


def _lines(difference: Difference, place: Target) -> list[Line]:
    """Commands that bring back first and remove last: what cannot be had again shows in time."""
    uv = find_uv()
    now = place.installed()
    found = []
    plain = [p for p in difference.lost if p.direct is None and p.tree is None]
    for index, group in groupby(sorted(plain, key=_index), key=_index):
        packages = list(group)
        found.append(
            install_command(
                place.python,
                [word for package in packages for word in package.requirement],
                index_url=index or None,
                uv=uv,
                reinstall=[package.name for package in packages if package.name in now],
                no_deps=True,
            )
        )
    for package in (p for p in difference.lost if p.direct is not None):
        again = [package.name] if package.name in now else []
        found.append(
            install_command(place.python, package.requirement, uv=uv, reinstall=again, no_deps=True)
        )
    # pip goes last: it may be what removes the others
    added = sorted(difference.added, key=lambda name: name == "pip")
    trees = [package for package in difference.lost if package.tree]
    gone = [*(p.name for p in trees if p.name in now), *added]
    found += [uninstall_command(place.python, gone, uv=uv)] if gone else []
    lines = [parse(command) for command in found]
    return lines + [_link(place, package) for package in trees]


def _link(place: Target, package: Package) -> Line:
    return Line({}, (place.python, "-m", "doctor.builder.local_tree", str(package.tree)))


def _index(package: Package) -> str:
    return package.index or ""


def find_uv() -> str | None:
    """uv on the PATH, or beside our own interpreter."""
    return shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))

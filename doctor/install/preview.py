"""What apply shows before it does anything: what is there, what will change, what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from doctor.environment import pins
from doctor.environment.command_line import Line
from doctor.environment.place import Place
from doctor.errors import DoctorError, Unknown
from doctor.install import changes
from doctor.install.effects import DATA_STEPS, REPLACING
from doctor.install.journal import Entry
from doctor.install.session import Session
from doctor.machine.system import System
from doctor.planner import commands
from doctor.planner.steps import cost
from doctor.planner.terms.plan import Step
from doctor.text.quantities import count, disk
from doctor.work.private import shown

REHEARSAL_SECONDS = 20.0
ROOM = 1.05
"""Free disk over what the steps say they take."""


def announce(
    session: Session,
    lines: Mapping[str, Sequence[Line]],
    todo: Sequence[Step],
    lacking: Mapping[str, str | None],
    begun: Entry | None,
) -> None:
    """Say what is there, what will change and what that costs.

    Args:
        lines: step -> its commands.
        lacking: step -> why its effect is not there.
        begun: what an earlier run was cut off in.
    """
    say, place = session.say, session.target
    now = {name: item.version for name, item in place.installed().items()}
    known = [f"{name} {now[name]}" for name in pins.PINNED if name in now]
    what = f"{count(len(now), 'package')}, {', '.join(known) or 'no torch'}"
    say(f"{place.prefix} has {what if place.exists else 'nothing yet'}.")
    if begun is not None:
        say(f"  An earlier run was cut off in step {begun.step}; that is mended first.")
    torch_stays = not any(step.id in REPLACING for step in todo)
    for step in todo:
        why = f" ({lacking[step.id]})" if place.exists else ""
        say(f"  {step.id}: {step.title}{why}")
        for line in lines[step.id]:
            exact = _exact(session, step, line, now) if torch_stays or step.id == "torch" else None
            whole = [f"runs {shown(commands.typed(line.text))}"]
            for text in whole if exact is None else changes.describe(exact):
                say(f"    {text}")
    say(f"  In all {cost(todo)}.")


def _exact(
    session: Session, step: Step, line: Line, now: Mapping[str, str]
) -> tuple[changes.Change, ...] | None:
    """What a step before which torch does not change will do to packages; None where nobody says.

    pip rehearses by downloading all of it, which is too much for a torch.
    """
    replaces = step.id in REPLACING
    if not session.target.exists or (replaces and line.tool != "uv"):
        return None
    # uv's files still pin the torch that is to be replaced
    pinned = replaces and (session.target.state / pins.NAME).exists()
    return rehearsed(session, line.without_config() if pinned else line, now)


def rehearsed(
    session: Session, line: Line, now: Mapping[str, str]
) -> tuple[changes.Change, ...] | None:
    """What a command would change; None where its tool does not say.

    Args:
        now: distribution -> version as it is.
    """
    return changes.rehearse(
        line,
        cwd=session.target.checkout,
        env=session.variables(line),
        installed=now,
        report=session.target.state / "rehearsal.json",
        seconds=min(REHEARSAL_SECONDS, session.seconds),
    )


def require_room(place: Place, todo: Sequence[Step]) -> None:
    """The disks take what the steps say, and a little more.

    Raises:
        DoctorError: one of them does not.
    """
    from nanochat.files import base_dir

    system = System()
    needed: dict[int, tuple[Path, float]] = {}
    for step in todo:
        folder = base_dir() if step.id in DATA_STEPS else place.prefix
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        device = there.stat().st_dev
        path, megabytes = needed.get(device, (there, 0.0))
        needed[device] = path, megabytes + step.disk_mb * ROOM
    for path, megabytes in needed.values():
        try:
            free = system.space(str(path))[1] / 1e6
        except Unknown:
            continue
        if megabytes > free:
            raise DoctorError(
                f"The steps need about {disk(megabytes)} on the disk of {path}, which has {disk(free)} "
                "free; free some, or use another disk (--python for packages, NANOCHAT_BASE_DIR for data)."
            )

"""The options by which a user says what is wished: shared by plan, apply, render and speedrun."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from doctor.cli.completion import among, profiles
from doctor.cli.help import option
from doctor.planner.terms.plan import CHANNELS, ROUTES, Wishes

Command = TypeVar("Command", bound=Callable[..., Any])


def _archs(_ctx: click.Context, _param: click.Parameter, value: Sequence[str]) -> tuple[str, ...]:
    """Architectures out of repeated options and lists, `12.0;9.0+PTX`."""
    words = [word for item in value for word in item.replace(";", " ").replace(",", " ").split()]
    return tuple(dict.fromkeys(words))


wish = partial(option, group="Wishes")
machine = partial(option, group="Machine")

OPTIONS = (
    wish("--route", metavar="NAME", shell_complete=among(lambda: ROUTES[:-1]),
         help=f"Force a route: {', '.join(ROUTES[:-1])}."),
    wish("--channel", metavar="NAME", shell_complete=among(lambda: CHANNELS),
         help=f"{' or '.join(CHANNELS)}."),
    wish(
        "--arch",
        "archs",
        multiple=True,
        metavar="X.Y",
        callback=_archs,
        help="Ask for code for this GPU architecture; repeatable, or a list.",
    ),
    wish(
        "--libuv/--no-libuv", default=None, help="Ask for a torch with libuv, or without."
    ),
    wish(
        "--profile",
        metavar="NAME",
        shell_complete=among(profiles),
        help="Launch settings by name (build/profiles.toml).",
    ),
    wish("--depth", type=int, metavar="N", help="Layers of the model."),
    wish("--nproc", type=int, metavar="N", help="Processes, one a device."),
)  # fmt: skip

FACTS = machine(
    "--facts",
    "facts_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Decide for the machine of this facts file ('facts' writes one).",
)


OFFLINE = machine("--offline", is_flag=True, help="Ask no index; decide from the tables.")


def wishes_options(command: Command) -> Command:
    """Add the options to a command; it is given them as keyword arguments, for `gather`."""
    for decorate in reversed(OPTIONS):
        command = decorate(command)
    return command


def gather(options: dict[str, Any]) -> Wishes:
    """The wishes out of a command's keyword arguments."""
    names = ("route", "channel", "archs", "libuv", "profile", "depth", "nproc")
    return Wishes(**{name: options[name] for name in names})


def words(wishes: Wishes) -> list[str]:
    """The wishes as a command line has them."""
    said: list[str] = []
    for name in ("route", "channel", "profile", "depth", "nproc"):
        value = getattr(wishes, name)
        said += [f"--{name}", str(value)] if value is not None else []
    said += [word for arch in wishes.archs for word in ("--arch", arch)]
    if wishes.libuv is not None:
        said.append("--libuv" if wishes.libuv else "--no-libuv")
    return said

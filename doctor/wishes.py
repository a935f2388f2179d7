"""The options by which a user says what is wished: shared by plan, apply, render and speedrun."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from doctor.plan import CHANNELS, ROUTES, Wishes

Command = TypeVar("Command", bound=Callable[..., Any])


def _archs(_ctx: click.Context, _param: click.Parameter, value: Sequence[str]) -> tuple[str, ...]:
    """Architectures out of repeated options and lists, `12.0;9.0+PTX`."""
    words = [word for item in value for word in item.replace(";", " ").replace(",", " ").split()]
    return tuple(dict.fromkeys(words))


OPTIONS = (
    click.option("--route", metavar="NAME", help=f"Force a route: {', '.join(ROUTES[:-1])}."),
    click.option("--channel", metavar="NAME", help=f"{' or '.join(CHANNELS)}."),
    click.option(
        "--arch",
        "archs",
        multiple=True,
        metavar="X.Y",
        callback=_archs,
        help="Ask for code for this GPU architecture; repeatable, or a list.",
    ),
    click.option(
        "--libuv/--no-libuv", default=None, help="Ask for a torch with libuv, or without."
    ),
    click.option(
        "--profile", metavar="NAME", help="Launch settings by name (build/profiles.toml)."
    ),
    click.option("--depth", type=int, metavar="N", help="Layers of the model."),
    click.option("--nproc", type=int, metavar="N", help="Processes, one a device."),
)

FACTS = click.option(
    "--facts",
    "facts_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Decide for the machine of this facts file ('facts' writes one).",
)


OFFLINE = click.option("--offline", is_flag=True, help="Ask no index; decide from the tables.")


def wishes_options(command: Command) -> Command:
    """Add the options to a command; it is given them as keyword arguments, for `gather`."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def gather(options: dict[str, Any]) -> Wishes:
    """The wishes out of a command's keyword arguments."""
    names = ("route", "channel", "archs", "libuv", "profile", "depth", "nproc")
    return Wishes(**{name: options[name] for name in names})

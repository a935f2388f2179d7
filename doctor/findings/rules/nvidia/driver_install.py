"""Which NVIDIA driver to install on this machine, for its cards and its distribution, in words and as commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from doctor.findings.context import Context, filled, joined
from doctor.knowledge import compat, drivers
from doctor.knowledge.drivers import PROPRIETARY, Serving, serving
from doctor.knowledge.tables import Row
from doctor.knowledge.versions import older, parts


@dataclass(frozen=True)
class DriverAdvice:
    """What to do, in sentences, and the commands that do it on this distribution."""

    text: str
    commands: tuple[str, ...] = ()


def bus_capabilities(c: Context) -> list[str]:
    """Compute capabilities of all cards of the machine that a driver could serve, listed by it or not, each once."""
    nvidia = c.facts.nvidia
    if nvidia is None:
        return []
    on_bus = [d.compute_capability for d in nvidia.pci_devices if d.driver != "vfio-pci"]
    return list(
        dict.fromkeys(cc for cc in (*on_bus, *(g.compute_capability for g in nvidia.gpus)) if cc)
    )


def advice(c: Context) -> DriverAdvice:
    """How this machine gets a driver that serves its cards."""
    host = c.facts.host
    if host and host.wsl:
        return DriverAdvice("Install or update the NVIDIA driver in Windows, and none in here.")
    if c.jetson:
        return DriverAdvice(
            "A Jetson's driver comes with its JetPack: install the nvidia-l4t packages again, or flash it."
        )
    cards = bus_capabilities(c)
    together, text = _that_go_together(c, cards)
    wanted = serving(together, c.tables)
    row = None if host and host.container else _row(c, wanted)
    text += f"Install an NVIDIA driver{_branch(c, wanted, together, row)}{_module(wanted, c)}"
    if host and host.container:
        return DriverAdvice(f"{text} on the host: a container uses the driver of its host.")
    if row is None:
        return DriverAdvice(f"{text}, and restart.")
    text += f", from {row['name']}, and restart." if row["commands"] else "."
    commands = tuple(filled(command, c.repository_values) for command in row["commands"])
    return DriverAdvice(f"{text}{_hint(row, c)}", commands)


def _that_go_together(c: Context, cards: Sequence[str]) -> tuple[list[str], str]:
    """All cards, or the newest and those that one driver serves beside them, and why not all."""
    if serving(cards, c.tables).possible:
        return list(cards), ""
    chosen: list[str] = []
    for cc in sorted(cards, key=parts, reverse=True):
        if serving([*chosen, cc], c.tables).possible:
            chosen.append(cc)
    left = [cc for cc in cards if cc not in chosen]
    return chosen, (
        f"No one driver serves all cards: {why_apart(c, cards)}. What follows serves compute capability "
        f"{joined(chosen)} and leaves {joined(left)} unused. "
    )


def why_apart(c: Context, cards: Sequence[str]) -> str:
    """Why no driver serves some cards together, in half a sentence."""
    all_of_them = serving(cards, c.tables)
    rows = [row for row in map(c.tables.arch, cards) if row]
    if not all_of_them.modules:
        closed = [r["family"] for r in rows if drivers.OPEN not in drivers.modules(r)]
        opened = [r["family"] for r in rows if PROPRIETARY not in drivers.modules(r)]
        return (
            f"{joined(list(dict.fromkeys(opened)))} runs on the open kernel module alone, "
            f"{joined(list(dict.fromkeys(closed)))} on the proprietary one alone"
        )
    return f"the newest of them needs branch {all_of_them.first}, and {all_of_them.last} was the last for the oldest"


def _branch(c: Context, wanted: Serving, cards: Sequence[str], row: Row | None) -> str:
    """The branch that this way brings, else the last that serves the cards, else what the newest CUDA needs."""
    if row and "branch" in row and row["branch"] != wanted.last:
        return f" of branch {row['branch']}" + (
            f" ({wanted.last} is the last for the cards)" if wanted.last else ""
        )
    if wanted.last:
        return f" of branch {wanted.last} (the last for {'this card' if len(cards) == 1 else 'these cards'})"
    newest = max((r["major"] for r in c.tables.rows("cuda", "cuda_major")), key=parts, default=None)
    floor = compat.driver_floor(f"{newest}.0", cards, c.tables) if newest else None
    if wanted.first and (floor is None or older(floor, wanted.first)):
        floor = wanted.first
    return f", {floor} or newer," if floor else ""


def _module(wanted: Serving, c: Context) -> str:
    """The kind of kernel module, where only one serves."""
    if len(wanted.modules) != 1 or not bus_capabilities(c):
        return ""
    if wanted.modules == (PROPRIETARY,):
        return " with the proprietary kernel module (the open one runs nothing before Turing)"
    return " with the open kernel module (the only one for Blackwell and newer)"


def _row(c: Context, wanted: Serving) -> Row | None:
    """The first way of this distribution, or of one that it is like, to a driver that serves."""
    rows = c.tables.rows("drivers", "install")
    for name in (*c.distribution, "*"):
        for row in rows:
            if name in row["id"] and _serves(row, wanted):
                return row
    return None


def _serves(row: Row, wanted: Serving) -> bool:
    if row.get("picks"):
        return True
    best = next((kind for kind in wanted.modules if kind in row["modules"]), None)
    return best is not None and wanted.has(row.get("branch"))


def _hint(row: Row, c: Context) -> str:
    nvidia = c.facts.nvidia
    text = f" {row['text']}" if row.get("text") else ""
    if nvidia and c.driver and row["commands"] and not row.get("picks"):
        text += f" Take the packages of driver {c.driver} away first."
    return text

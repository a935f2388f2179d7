"""Which NVIDIA driver serves which cards: branches and kinds of kernel module. Pure rules over the tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from doctor.knowledge.tables import Row, Tables
from doctor.knowledge.versions import older, parts

OPEN, PROPRIETARY = "open", "proprietary"
"""Kinds of NVIDIA's kernel module; Tegra chips before Thor have a driver of their own and neither."""


@dataclass(frozen=True)
class Serving:
    """What serves all of some cards.

    Attributes:
        first: lowest branch that knows each of them; None is any.
        last: last branch that serves each of them; None is the newest.
        modules: kinds of kernel module that run each of them, the best first.
    """

    first: str | None
    last: str | None
    modules: tuple[str, ...]

    @property
    def possible(self) -> bool:
        """Whether one driver serves them all."""
        return bool(self.modules) and not (
            self.first and self.last and older(self.last, self.first)
        )

    def has(self, branch: str | None) -> bool:
        """Whether a branch serves them all; None is the newest branch."""
        if branch is None:
            return self.last is None
        too_old = self.first is not None and older(branch, branch_of(self.first))
        return not too_old and not (self.last and older(self.last, branch))


def serving(capabilities: Iterable[str], tables: Tables) -> Serving:
    """What serves all cards of some compute capabilities; what has no row asks for nothing."""
    rows = [row for row in map(tables.arch, capabilities) if row]
    firsts = [first for row in rows if (first := first_branch(row, tables))]
    lasts = [str(row["last_driver"]) for row in rows if "last_driver" in row]
    kinds = (OPEN, PROPRIETARY)
    return Serving(
        first=max(firsts, key=parts, default=None),
        last=min(lasts, key=parts, default=None),
        modules=tuple(k for k in kinds if all(k in modules(row) for row in rows)),
    )


def modules(row: Row) -> Sequence[str]:
    """Kinds of kernel module that run the cards of an architecture."""
    return tuple(row.get("modules", (OPEN, PROPRIETARY)))


def first_branch(row: Row, tables: Tables) -> str | None:
    """The branch that first knew an architecture: its own floor, else that of the first toolkit for it."""
    toolkit = tables.toolkit(row["min_cuda"])
    known = row.get("min_driver") or (toolkit or {}).get("driver")
    return branch_of(str(known)) if known and not row["tegra"] else row.get("min_driver")


def branch_of(driver: str) -> str:
    """`580.95.05` -> `580`."""
    return str(parts(driver)[0]) if parts(driver) else driver


def refusals(
    cc: str, driver: str | None, open_module: bool | None, tables: Tables
) -> Iterator[str]:
    """Why a driver does not serve a card, each in half a sentence; nothing where it does, or where no row tells.

    Args:
        driver: its version; None leaves branches out of account.
        open_module: whether its kernel module is the open one; None is not known.
    """
    row = tables.arch(cc)
    if row is None or row["tegra"]:
        return
    family, last, first = row["family"], row.get("last_driver"), first_branch(row, tables)
    branch = branch_of(driver) if driver else None
    if branch and last and older(str(last), branch):
        yield f"branch {last} was the last for {family}, and this is {branch}"
    elif open_module and OPEN not in modules(row):
        yield f"the open kernel module runs nothing before Turing, and this is {family}"
    elif open_module is False and PROPRIETARY not in modules(row):
        yield f"the proprietary kernel module does not run {family}, the open one does"
    elif branch and first and older(branch, first):
        yield f"branch {first} was the first for it, and this is {branch}"

"""Which CUDA a PyTorch is built with: what its CMake files take, and what a toolkit still compiles for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from doctor.knowledge.tables import Row, Tables
from doctor.knowledge.versions import minor, older, parts
from doctor.planner.build.wish import base, ending


@dataclass(frozen=True)
class ToolkitAdvice:
    """Which toolkit to get for a PyTorch and architectures.

    Attributes:
        cuda: the best one: that of the release's own wheels where it knows the architectures, else the newest.
        low: the oldest that will do.
        last: the newest, where newer ones have dropped an architecture; None where none has.
        released_with: newest CUDA of the release's own wheels.
        serve: all that will do, oldest first.
    """

    cuda: str
    low: str
    last: str | None
    released_with: str | None
    serve: tuple[str, ...]

    def words(self, torch: str | None) -> str:
        """`CUDA 12.6 or newer …`, for a sentence that begins with `Install`."""
        series = f"PyTorch {minor(torch)}" if torch else "PyTorch"
        if self.last is not None and self.cuda == self.last:
            older_too = f" ({self.low} or newer will do)" if self.low != self.last else ""
            return f"CUDA {self.last}, the last that does{older_too}"
        if self.last is not None:
            return f"CUDA {self.cuda}, with which {series} was released ({self.low} to {self.last} will do)"
        tested = f" ({series} was released with {self.released_with})" if self.released_with else ""
        return f"CUDA {self.low} or newer{tested}"


def row_for(torch: str, tables: Tables) -> Row | None:
    """The row of [[takes]] for a PyTorch version; None for one that is older than all."""
    return next(
        (r for r in reversed(tables.rows("cuda", "takes")) if not older(torch, r["since"])), None
    )


def released_with(torch: str, tables: Tables) -> list[str]:
    """CUDA versions of a release's own wheels, newest first; empty for one that the tables do not know."""
    rows = tables.rows("torch", "wheel")
    found = {str(r["cuda"]) for r in rows if r.get("cuda") and minor(r["torch"]) == minor(torch)}
    return sorted(found, key=parts, reverse=True)


def advise(
    archs: Sequence[str], torch: str | None, driver: str | None, tables: Tables
) -> ToolkitAdvice | None:
    """Which toolkit to get; None where no CUDA serves all of it.

    Args:
        torch: version that is built; None asks nothing of it.
        driver: that must run what is built; None asks nothing of it.
    """
    fit = list(_fitting(archs, torch, driver, tables))
    if not fit:
        return None
    wheels = released_with(torch, tables) if torch else []
    known = [str(r["version"]) for r in tables.rows("cuda", "toolkit")]
    best = next((v for v in wheels if v in fit), fit[-1])
    dropped = any(older(fit[-1], v) and not _knows(v, archs, tables) for v in known)
    last = fit[-1] if dropped else None
    return ToolkitAdvice(best, fit[0], last, wheels[0] if wheels else None, tuple(fit))


def _fitting(
    archs: Sequence[str], torch: str | None, driver: str | None, tables: Tables
) -> Iterator[str]:
    """Toolkits that serve, oldest first."""
    row = row_for(torch, tables) if torch else None
    wheels = released_with(torch, tables) if torch else []
    for toolkit in tables.rows("cuda", "toolkit"):
        cuda = str(toolkit["version"])
        floor = tables.major_floor(cuda)
        if row and older(cuda, row["min_cuda"]):
            continue
        if wheels and parts(cuda)[0] > parts(wheels[0])[0]:
            continue
        if driver and floor and older(driver, floor):
            continue
        if _knows(cuda, archs, tables):
            yield cuda


def _knows(cuda: str, archs: Sequence[str], tables: Tables) -> bool:
    """Whether a toolkit compiles for all of them, endings such as 12.0f among them."""
    listed = tables.toolkit_archs(cuda)
    for arch in archs:
        row = target(ending(arch), tables)
        if base(arch) not in listed or (row and older(cuda, row["min_cuda"])):
            return False
    return True


def target(suffix: str, tables: Tables) -> Row | None:
    """The row of an ending, `a` or `f`."""
    return next((r for r in tables.rows("cuda", "target") if r["suffix"] == suffix), None)


def torch_that_takes(archs: Sequence[str], driver: str | None, tables: Tables) -> str | None:
    """The newest PyTorch series that is built for these architectures with a CUDA that this driver runs."""
    series = [str(r["torch"]) for r in tables.rows("torch", "release")]
    newest = sorted(series, key=parts, reverse=True)
    return next((s for s in newest if advise(archs, s, driver, tables)), None)


def endings_refused(archs: Sequence[str], torch: str, tables: Tables) -> list[str]:
    """Architectures whose ending a PyTorch does not know."""
    row = row_for(torch, tables)
    return [a for a in archs if row and ending(a) and ending(a) not in row["targets"]]

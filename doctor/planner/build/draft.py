"""A build in the making: architectures, toolkit, compiler and jobs, chosen from facts and a wish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from doctor.facts import Facts, Toolkit
from doctor.findings.context import Context
from doctor.knowledge.tables import Row, Tables
from doctor.planner.build.jobs import Jobs, fit_jobs, pace, usable_gb
from doctor.planner.build.toolchain import Compiler, accepts, choose_toolkit, compilers
from doctor.planner.build.wish import canonical_archs
from doctor.planner.terms.plan import Wishes


@dataclass(frozen=True)
class Draft:
    """A build in the making: what was chosen, before it becomes variables."""

    archs: tuple[str, ...]
    """Empty for a CPU build."""
    libuv: bool
    toolkit: Toolkit | None
    compiler: Compiler | None
    """None: there is none, or none that goes with the toolkit."""
    jobs: Jobs
    cores: int

    @property
    def cuda(self) -> bool:
        """Whether CUDA code is compiled."""
        return bool(self.archs)


def draft(
    facts: Facts,
    tables: Tables,
    wishes: Wishes,
    *,
    cuda_home: str | None = None,
    torch: str | None = None,
    first: Sequence[Compiler] = (),
    others: Sequence[Compiler] = (),
) -> Draft:
    """Choose architectures, toolkit, compiler and jobs.

    Args:
        torch: version that is built, as far as it is known.
        first: compilers that are preferred to those that the facts name (CC and CXX).
        others: compilers to fall back on, best first.

    Raises:
        WrongUsage, DoctorError: as `canonical_archs`.
    """
    c = Context(facts, tables)
    usual = choose_toolkit(facts.nvidia, (), tables, cuda_home)
    known = usual.archs if usual else ()
    archs = canonical_archs(
        wishes.archs or c.capabilities, tables, native=c.capabilities, known=known
    )
    toolkit = choose_toolkit(facts.nvidia, archs, tables, cuda_home, torch) if archs else None
    row = tables.toolkit(toolkit.version) if toolkit and toolkit.version else None
    candidates = [*first, *compilers(facts.host.tools if facts.host else {}), *others]
    compiler = next((k for k in candidates if accepts(row, k.kind, k.version)), None)
    cores = (facts.host.cores if facts.host else None) or 1
    weights = tables.rows("recipes", "weight")
    jobs = fit_jobs(cores, usable_gb(facts.host), weights, _heavy_share(tables, bool(archs)))
    return Draft(archs, wishes.libuv is not False, toolkit, compiler, jobs, cores)


def cost(tables: Tables) -> Row:
    return tables.rows("recipes", "cost")[0]


def disk_gb(tables: Tables, chosen: Draft) -> float:
    row = cost(tables)
    more = max(0, len(chosen.archs) - 1)
    return float(row["disk_gb"] + row["disk_gb_per_arch"] * more)


def hours(tables: Tables, chosen: Draft) -> float:
    """An estimate of a whole build's time: core hours over the cores kept busy, and what runs alone."""
    row, jobs = cost(tables), chosen.jobs
    work = row["cpu_core_hours"]
    if chosen.cuda:
        work += row["cuda_core_hours"] + row["cuda_core_hours_per_arch"] * len(chosen.archs)
    wide, share = min(chosen.cores, jobs.wide), _heavy_share(tables, chosen.cuda)
    return float(row["serial_hours"] + work * pace(wide, min(wide, jobs.heavy), share))


def _heavy_share(tables: Tables, cuda: bool) -> float:
    return float(cost(tables)["heavy_share"]) if cuda else 0.0

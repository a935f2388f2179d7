"""A build of PyTorch for the planner: from facts and tables alone; nothing is run or read here."""

from __future__ import annotations

from pathlib import Path

from doctor.errors import DoctorError
from doctor.facts import Facts, Python
from doctor.findings.finding import Finding
from doctor.knowledge.tables import Tables
from doctor.knowledge.versions import minor
from doctor.planner.build.draft import cost, disk_gb, draft, hours
from doctor.planner.build.obstacles import obstacles
from doctor.planner.build.recipe import environment
from doctor.planner.build.release import newest_release
from doctor.planner.build.tree import expected_tree
from doctor.planner.build.wish import canonical_archs
from doctor.planner.terms.plan import Build, Wishes

__all__ = ["build_tools", "canonical_archs", "plan_build", "release_for"]


def release_for(python: Python | None, tables: Tables) -> str:
    """Tag of the newest PyTorch release that knows a Python.

    Raises:
        DoctorError: no release in the tables knows it.
    """
    series = minor(python.version) if python and python.version else None
    if series and python and python.free_threaded:
        series += "t"
    return newest_release(tables, series)


def _version_for(python: Python | None, tables: Tables) -> str | None:
    try:
        return release_for(python, tables).removeprefix("v")
    except DoctorError:
        return None


def build_tools(python: Python | None, tables: Tables) -> list[str]:
    """Requirements, for pip, of what the newest PyTorch for a Python is built with.

    Raises:
        DoctorError: as `release_for`.
    """
    tree = expected_tree(Path(), release_for(python, tables).removeprefix("v"), tables)
    assert tree is not None, "releases that the tables know are newer than the oldest row"
    others = (name for name in tree.requires if name not in ("cmake", "ninja"))
    return [f"cmake>={tree.cmake}", "ninja", *others]


def plan_build(
    facts: Facts, tables: Tables, wishes: Wishes
) -> tuple[Build, tuple[Finding, ...], float, float, int]:
    """A build of PyTorch for a machine: the build, what stands in its way, hours, GB of disk, MB of network.

    Without a wish it is for every visible device, with libuv; on a machine with no NVIDIA GPU it
    is a CPU build, with no architectures.

    Raises:
        WrongUsage: an architecture that there is none of.
        DoctorError: `native` on a machine with no visible device.
    """
    torch = _version_for(facts.python, tables)
    chosen = draft(facts, tables, wishes, torch=torch)
    build = Build(
        archs=chosen.archs,
        libuv=chosen.libuv,
        cuda_home=chosen.toolkit.path if chosen.toolkit else None,
        jobs=chosen.jobs.wide,
        env=environment(facts, tables, chosen),
    )
    found = tuple(obstacles(facts, tables, chosen, torch))
    network = int(cost(tables)["network_mb"])
    return build, found, hours(tables, chosen), disk_gb(tables, chosen), network

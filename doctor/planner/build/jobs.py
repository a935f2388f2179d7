"""How many compilers run at once, so that they fit into memory and the build is done soonest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from doctor.facts import Host
from doctor.knowledge.tables import Row

HEADROOM_SHARE = 0.1
HEADROOM_GB = 1.0
"""Memory that is left to the rest of the machine: a tenth, and at least this much."""

MIB_PER_GB = 1024


@dataclass(frozen=True)
class Jobs:
    """How many compilers run at once: of all kinds, and of those the heavy ones."""

    wide: int
    heavy: int
    heavy_gb: float
    """What the heaviest object takes."""
    light_gb: float
    """What one of the others takes at the most."""

    @property
    def heavy_from_gb(self) -> float:
        """An object that takes more than this belongs into the narrow pool."""
        return (
            (self.light_gb + self.heavy_gb) / 2
            if self.heavy_gb > self.light_gb
            else self.heavy_gb * 1.5
        )


def usable_gb(host: Host | None) -> float | None:
    """Memory that the compilers may take: what is free, within the control group, less headroom."""
    if host is None:
        return None
    known = [m for m in (host.memory_available or host.memory_total, host.cgroup_memory_limit) if m]
    if not known:
        return None
    free = min(known) / MIB_PER_GB
    return max(0.5, free - max(HEADROOM_GB, free * HEADROOM_SHARE))


def fit_jobs(
    cores: int, memory_gb: float | None, weights: Sequence[Row], heavy_share: float
) -> Jobs:
    """Jobs that fit into memory and are done soonest: neither the heavy objects nor the rest hold up the other.

    Args:
        memory_gb: what `usable_gb` says; None reckons with 2 GB a core.
        weights: rows of build/recipes.toml.
        heavy_share: of a build's work, what its heavy objects are; 0 for a CPU build.
    """
    cuda = heavy_share > 0
    # those that take the most are neighbours in ninja's plan, so that they meet
    light = max(w["memory_gb"] for w in weights if not w.get("heavy") and _counts(w, cuda))
    heavy = max((w["memory_gb"] for w in weights if w.get("heavy") and cuda), default=light)
    memory = 2.0 * cores if memory_gb is None else memory_gb
    best, soonest = Jobs(1, 1, heavy, light), math.inf
    for wide in range(1, cores + 1):
        spare = memory - wide * light
        narrow = wide if heavy <= light else min(wide, int(spare // (heavy - light)))
        time = pace(wide, narrow, heavy_share) if spare >= 0 and narrow >= 1 else math.inf
        if time < math.inf and time <= soonest:
            best, soonest = Jobs(wide, narrow, heavy, light), time
    return best


def pace(wide: int, heavy: int, heavy_share: float) -> float:
    """How long a unit of work takes, in units of one core: the narrow pool may be what decides."""
    return max(1 / wide, heavy_share / heavy)


def _counts(weight: Row, cuda: bool) -> bool:
    return cuda or ".cu" not in weight["pattern"].replace("\\", "")

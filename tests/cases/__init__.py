"""Machines of every kind, and the whole of what `check` says about each.

A row names all errors and all warnings of a machine: a verdict too many is as wrong as one too
few. What is merely not there yet (shards, tokenizer, checkpoints) is info and not listed.
"""

from __future__ import annotations

from cases.cards import CARDS_AND_DRIVERS
from cases.describe import Case
from cases.drivers import DRIVERS
from cases.healthy import HEALTHY
from cases.hosts import HOSTS
from cases.npus import NPUS
from cases.packages import HEALTHY_PACKAGES, PACKAGES
from cases.states import BEHIND_NVIDIA_SMI, STATES
from cases.torches import TORCHES

CASES: dict[str, Case] = {
    **{name: Case(machine=machine) for name, machine in (HEALTHY | HEALTHY_PACKAGES).items()},
    **CARDS_AND_DRIVERS,
    **BEHIND_NVIDIA_SMI,
    **STATES,
    **DRIVERS,
    **TORCHES,
    **PACKAGES,
    **HOSTS,
    **NPUS,
}

__all__ = ["CASES", "Case"]

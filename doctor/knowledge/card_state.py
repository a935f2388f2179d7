"""What the state of an NVIDIA card means for CUDA: pure questions to build/cards.toml."""

from __future__ import annotations

import re
from collections.abc import Sequence

from doctor.facts import Gpu
from doctor.knowledge.tables import Row, Tables

MPS = "mps-server"
"""A server that shares an exclusive card among its clients (nvidia-cuda-mps-server)."""

PROHIBITED, EXCLUSIVE = "prohibited", "exclusive"


def fault_row(sign: str, tables: Tables) -> Row | None:
    """What the tables say of a sign of a fault."""
    rows = tables.rows("cards", "fault")
    return next((row for row in rows if re.search(row["pattern"], sign, re.IGNORECASE)), None)


def stopped(gpu: Gpu, tables: Tables) -> bool:
    """Whether CUDA does not start on a card, as far as its driver tells."""
    rows = (fault_row(sign, tables) for sign in gpu.faults)
    return any(row["stops"] for row in rows if row) or refuses(gpu)


def refuses(gpu: Gpu) -> bool:
    """Whether a card's compute mode keeps a new program off it."""
    mode = (gpu.compute_mode or "").lower()
    held = [p for p in gpu.processes if MPS not in (p.name or "")]
    return mode == PROHIBITED or (
        mode.startswith(EXCLUSIVE) and bool(held) and len(held) == len(gpu.processes)
    )


def forward_compatible(names: Sequence[str | None], tables: Tables) -> bool | None:
    """Whether a libcuda newer than the kernel module starts on all these cards; None is not known."""
    answers = [_works(name or "", tables) for name in names]
    if False in answers:
        return False
    return True if answers and None not in answers else None


def _works(name: str, tables: Tables) -> bool | None:
    for row in tables.rows("cards", "forward_compat"):
        if re.search(row["pattern"], name, re.IGNORECASE):
            return bool(row["works"])
    return None


def container_cure(kind: str | None, need: str, tables: Tables) -> str:
    """How a kind of container gets what it lacks.

    Args:
        need: column of the table: `give`, `uvm`, `mig`, `compute`, `restart`.
    """
    rows = tables.rows("cards", "container")
    found = next((row for row in rows if row["name"] == kind), None)
    return str((found or rows[-1])[need])

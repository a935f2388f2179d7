"""Which torch to advise on a machine, in words and as commands."""

from __future__ import annotations

import re

from doctor.findings.context import Context, joined
from doctor.tables import Row
from doctor.versions import parts


def torch_commands(c: Context) -> list[str]:
    """Commands that install the best torch for this machine, where the tables know one.

    Beside an NPU: torch for the CPU, its torch_npu, and what that imports without asking for it.
    """
    if unknown_card(c):
        return []
    if not c.has_npu:
        return [c.torch_install(c.wheels[0], again=c.torch is not None)] if c.wheels else []
    pair, host = best_npu_pair(c), c.facts.host
    if pair is None:
        return []
    # the default index has a CPU build for ARM only; a CUDA build gets in torch_npu's way
    index = c.tables.pytorch_index("cpu") if host and host.arch == "x86_64" else None
    python = (c.python_minor or "").removesuffix("t") or None
    needs = c.tables.npu_requirements(pair["torch"], active_cann(c), python)
    packages = dict.fromkeys(f"{need.name}{need.specifier}" for need in needs)
    specified = {re.split("[<>=]", p)[0] for p in packages if re.search("[<>=]", p)}
    return [
        c.pip_install(f"torch=={pair['torch']}", index=index),
        c.pip_install(
            f"torch_npu=={pair['torch_npu']}", *(p for p in packages if p not in specified)
        ),
    ]


def unknown_card(c: Context) -> bool:
    """Whether there is a GPU of which nothing is known: no wheel is right for it, and none for the CPU."""
    return c.has_nvidia and not c.has_npu and not c.capabilities


def best_npu_pair(c: Context) -> Row | None:
    """The newest torch_npu that goes with the active CANN and this Python."""
    ascend = c.facts.ascend
    version = active_cann(c)
    if ascend is None or version is None:
        return None
    python = (c.python_minor or "").removesuffix("t")
    pairs = [
        pair
        for pair in c.tables.cann_pairs(version)
        if not python or python in (pair.get("pythons") or c.tables.npu_pythons(pair["torch"]))
    ]
    return max(pairs, key=lambda p: parts(p["torch"]), default=None)


def active_cann(c: Context) -> str | None:
    """Release of the CANN that the environment uses, else of the one that is there."""
    active = c.facts.ascend.active if c.facts.ascend else None
    return active.version if active else None


def how_to_get_torch(c: Context) -> str:
    """The same in a sentence, or why the tables know none."""
    if c.has_npu:
        return "Install the torch and torch_npu that go with this CANN."
    if unknown_card(c):
        return "Which torch is right depends on the GPU: make it answer first, as the other findings say."
    if not c.wheels and not c.capabilities:
        return "No wheel in the tables is made for this Python, processor and C library."
    if not c.wheels:
        cards = f"compute capability {joined(c.capabilities)}"
        if len(c.capabilities) > 1:
            return (
                f"No one wheel has code for {cards} and a CUDA that this driver runs; hide one kind "
                "of card by CUDA_VISIBLE_DEVICES, or build from source for all."
            )
        return f"No wheel in the tables has code for {cards} and goes with this Python and driver."
    wheel = c.wheels[0]
    if not c.capabilities:
        return f"Install torch {wheel.version} for the CPU."
    return (
        f"Install torch {wheel.version} ({wheel.variant}), the newest with code for compute "
        f"capability {joined(c.capabilities)} and a CUDA that "
        + (f"driver {c.driver} runs." if c.driver else "a current driver runs.")
    )

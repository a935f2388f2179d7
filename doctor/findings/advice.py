"""Which torch to advise on a machine, in words and as commands."""

from __future__ import annotations

from doctor.findings.context import Context, joined
from doctor.tables import Row
from doctor.versions import parts


def torch_commands(c: Context) -> list[str]:
    """Commands that install the best torch for this machine, where the tables know one."""
    if c.has_npu:
        pair = best_npu_pair(c)
        if pair is None:
            return []
        host = c.facts.host
        requirement = f"torch=={pair['torch']}"
        cpu_index = host is not None and host.arch == "x86_64"
        index = "https://download.pytorch.org/whl/cpu" if cpu_index else None
        return [
            c.pip_install(requirement, index=index),
            c.pip_install(f"torch_npu=={pair['torch_npu']}", "pyyaml", "numpy<2", "decorator",
                          "attrs", "psutil", "scipy"),
        ]  # fmt: skip
    return [c.torch_install(c.wheels[0], again=c.torch is not None)] if c.wheels else []


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
    ascend = c.facts.ascend
    if ascend is None:
        return None
    return next((t.version for t in ascend.toolkits if t.path == ascend.active_toolkit), None)


def how_to_get_torch(c: Context) -> str:
    if c.has_npu:
        return "Install the torch and torch_npu that go with this CANN."
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

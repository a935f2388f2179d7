"""Which torch to advise on a machine, in words and as commands."""

from __future__ import annotations

from doctor.facts import Facts
from doctor.findings.context import Context, joined
from doctor.knowledge import compat
from doctor.knowledge.tables import Row
from doctor.knowledge.versions import parts
from doctor.text import invocation

TRAINER_FLOOR = "2.6"
"""The oldest torch that the trainer declares to need (pyproject.toml, extra train)."""


def torch_commands(c: Context) -> list[str]:
    """The command that puts in the best torch for this machine, where the tables know one: apply, which pins it
    and knows the way back. Beside an NPU that is torch for the CPU, its torch_npu, and what that imports.
    """
    if not c.has_npu and not c.wheels:
        return _jetson_commands(c)
    if unknown_card(c):
        return []
    known = best_npu_pair(c) is not None if c.has_npu else bool(c.wheels)
    return [apply_command(c.facts)] if known else []


def apply_command(facts: Facts, *words: str) -> str:
    """The command that carries the plan out in the examined environment."""
    python = facts.python
    if python is None:
        return invocation.apply_command(None, None, *words)
    of_a_user = python.venv or python.conda
    prefix = python.prefix if of_a_user else None
    return invocation.apply_command(python.executable, prefix, *words)


def unknown_card(c: Context) -> bool:
    """Whether there is a GPU of which nothing is known: no wheel is right for it, and none for the CPU."""
    return c.has_nvidia and not c.has_npu and not c.capabilities


def jetson_row(c: Context) -> Row | None:
    """The row of this Jetson's L4T, where none of PyTorch's own wheels serves it."""
    if c.jetson is None or c.wheels or not c.jetson.l4t:
        return None
    return c.tables.l4t(c.jetson.l4t)


def jetson_wheel(c: Context) -> Row | None:
    """The row of an index with wheels for this JetPack and this Python."""
    row = jetson_row(c)
    return row if row and "index" in row and c.python_minor in (None, row["python"]) else None


def _jetson_commands(c: Context) -> list[str]:
    row = jetson_wheel(c)
    if row is None:
        return []
    again = ["--force-reinstall"] if c.torch is not None else []
    return [c.pip_install(*again, f"torch=={row['torch']}", index=row["index"])]


def jetson_advice(c: Context) -> str | None:
    """Which PyTorch there is for this JetPack, in sentences; None on machines that PyTorch's own wheels serve."""
    row = jetson_row(c)
    if row is None:
        if c.jetson is None or c.wheels:
            return None
        return "Wheels for a Jetson go by its JetPack, which could not be read (/etc/nv_tegra_release)."
    text = (
        f"PyTorch's own wheels have none for compute capability {joined(c.capabilities)} and the CUDA {row['cuda']} of "
        f"JetPack {row['jetpack']} (L4T {c.jetson.l4t if c.jetson else '?'})."
    )
    if "index" in row:
        text += f" {row['index']} has torch {row['torch']} for it, for Python {row['python']}"
        text += (
            "."
            if jetson_wheel(c)
            else f": make an environment with that Python (this is {c.python_minor})."
        )
    return f"{text} {row['advice']}" if "advice" in row else text


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
        pair = best_npu_pair(c)
        if pair is None:
            return "Install the torch and torch_npu that go with this CANN."
        return (
            f"Install torch {pair['torch']} and torch_npu {pair['torch_npu']}, which go with CANN "
            f"{active_cann(c)}."
        )
    if about_jetson := jetson_advice(c):
        return about_jetson
    if unknown_card(c):
        return "Which torch is right depends on the GPU: make it answer first, as the other findings say."
    if not c.wheels and (why := left_behind(c)):
        return why
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


def left_behind(c: Context) -> str | None:
    """What can be done on a kind of machine that torch once had wheels for; None on any other."""
    host = c.facts.host
    rows = c.tables.rows("torch", "ended")
    row = next((r for r in rows if r["cpu_arch"] == compat.cpu_arch(host)), None)
    if host is None or row is None:
        return None
    if "Apple" in (host.cpu_model or ""):
        return (
            f"This is Apple silicon ({host.cpu_model}) and a Python for Intel, which Rosetta translates: make the "
            "environment with a Python for arm64."
        )
    return (
        f"{row['name']} have no wheel of torch any more: the last was {row['torch']}, for Python up to {row['python']} "
        f"and numpy {row['numpy']}, and the trainer needs {TRAINER_FLOOR} or newer. Train in a Linux container or "
        "virtual machine on this computer (its CPU wheels serve this processor), or on another machine."
    )

"""What a person should know of a run before it starts, in sentences with this machine's values."""

from __future__ import annotations

import re
from collections.abc import Iterator

from doctor.findings.context import Context, joined
from doctor.knowledge.tables import Row, Tables
from doctor.planner.launch import arithmetic
from doctor.planner.launch.arithmetic import Machine
from doctor.planner.launch.devices import Accelerator, faulty, names
from doctor.text.quantities import about, memory

SMALL_MB = 8200
"""Up to here, a card is small: models are kept small for it."""

UNEQUAL = 2.0
"""Devices are worth a word when one has so many times the memory or the speed of another."""


def cautions(
    context: Context, tables: Tables, machine: Machine, profile: Row, hours: float | None
) -> Iterator[str]:
    """Sentences about devices, memory, numbers and time.

    Args:
        hours: of the base stage; None is unknown.
    """
    yield from _about_devices(context, tables, machine)
    yield from _about_memory(tables, machine)
    yield from _about_numbers(machine, profile)
    yield from _about_time(tables, machine, profile, hours)


def _about_devices(context: Context, tables: Tables, machine: Machine) -> Iterator[str]:
    ascend = context.facts.ascend
    if machine.kind == "npu" and ascend is not None:
        bad = [n for n in ascend.npus if n.index in ascend.visible and faulty(n)]
        kept = {device.index for device in machine.used}
        out = [f"NPU {n.npu_id} (chip {n.chip_id}, {n.health})" for n in bad if n.index not in kept]
        if out:
            yield f"Left out: {joined(out)}; see what check says of it."
    if machine.kind == "cuda" and context.sound_gpus:
        out = [f"GPU {gpu.index}" for gpu in context.gpus if gpu not in context.sound_gpus]
        if out:
            yield f"Left out: {joined(out)}; see what check says of it."
    if any(device.mig for device in machine.used):
        yield (
            f"{machine.used[0].name} is divided by MIG: a process sees one instance, and NCCL joins none, "
            "so one process trains on one instance."
        )
    yield from _unequal(tables, machine)
    if machine.kind == "cuda" and machine.ranks > 1 and _without_links(context, machine):
        yield (
            f"{names(machine.used)} talk over PCIe; if NCCL hangs at the start, NCCL_P2P_DISABLE=1 sends what "
            "they exchange through the host."
        )


def _unequal(tables: Tables, machine: Machine) -> Iterator[str]:
    """Devices that wait for another."""
    used = machine.used
    sizes = [device.total_mb or 0 for device in used]
    rates = [_rate(tables, machine, device) or 0.0 for device in used]
    memory_differs = min(sizes) and max(sizes) >= UNEQUAL * min(sizes)
    speed_differs = min(rates) and max(rates) >= UNEQUAL * min(rates)
    if len(used) < 2 or not (memory_differs or speed_differs):
        return
    variable = {"cuda": "CUDA_VISIBLE_DEVICES", "npu": "ASCEND_RT_VISIBLE_DEVICES"}[machine.kind]
    least = sizes.index(min(sizes)) if memory_differs else rates.index(min(rates))
    text = f"All devices wait for the slowest and hold what the smallest can: {used[least].name} keeps the others back"
    best = max(rates)
    if min(rates) and best > min(rates) * len(used):
        text += f", and {used[rates.index(best)].name} alone would be faster"
    yield f"{text}; hide it with {variable} to train without it."


def _rate(tables: Tables, machine: Machine, device: Accelerator) -> float | None:
    return arithmetic.device_rate(
        tables, machine.kind, device, machine.dtype, compiled=machine.compiled
    )


def _without_links(context: Context, machine: Machine) -> bool:
    """Whether consumer cards have no NVLink between them."""
    nvidia = context.facts.nvidia
    links = {link for row in (nvidia.topology if nvidia else ()) for link in row}
    return any("GeForce" in device.name for device in machine.used) and not any(
        link.startswith("NV") for link in links
    )


def _about_memory(tables: Tables, machine: Machine) -> Iterator[str]:
    for device in machine.used:
        if device.held_mb:
            by = joined(device.holders[:3]) or "processes that the driver does not name"
            yield (
                f"{memory(device.held_mb)} of {memory(device.memory_mb or 0)} on device {device.index} "
                f"({device.name}) are taken by {by}; end them if they are leftovers."
            )
    least = min(machine.used, key=lambda device: device.total_mb or 0)
    if least.total_mb is None:
        yield f"How much memory {least.name} has is not known; the model is small enough for 4 GiB."
    elif machine.kind == "cuda" and least.total_mb < SMALL_MB:
        yield f"{least.name} has {memory(least.total_mb)}: model and batch are kept small for it."
    screens = [
        (int(row["mb"]), least.name)
        for row in tables.rows("launch", "display")
        if machine.kind == "cuda" and re.search(row["pattern"], least.name)
    ]
    if screens:
        yield f"{screens[0][1]} may also draw the screen: {memory(screens[0][0])} of it are left to that."


def _about_numbers(machine: Machine, profile: Row) -> Iterator[str]:
    if machine.kind in ("cuda", "npu"):
        slow = min(
            machine.used, key=lambda d: arithmetic.DTYPES.index(arithmetic.best(machine.kind, d))
        )
        if arithmetic.best(machine.kind, slow) != "bfloat16":
            how = "with scaled losses" if machine.dtype == "float16" else "slowly"
            yield f"{slow.name} does not multiply bfloat16, so training is in {machine.dtype}, {how}."
    if machine.kind == "cuda" and machine.obstacle:
        yield f"Nothing is compiled: {machine.obstacle}; training runs without, slower."
    if profile.get("fp8") and not arithmetic.multiplies_fp8(machine):
        why = machine.obstacle or f"{names(machine.used)} cannot"
        yield (
            f"Profile {profile['name']} multiplies in 8 bits, compiled, and here that is not so ({why}): "
            f"it is in {machine.dtype}."
        )


def _about_time(
    tables: Tables, machine: Machine, profile: Row, hours: float | None
) -> Iterator[str]:
    if any("laptop" in device.name.lower() for device in machine.used):
        yield "A laptop's GPU is much slower on battery and when it is hot; plug the power in."
    if hours is None:
        yield f"How long it takes is not known: there is no rate for {names(machine.used)} in build/accelerators.toml."
    elif hours > float(tables.rows("launch", "auto")[0]["hours"]):
        yield f"The base stage takes {about(hours * 3600)} here; checkpoints let it be interrupted."
    usual = int(profile.get("nproc", machine.ranks))
    if machine.ranks < usual:
        yield (
            f"Profile {profile['name']} is made for {usual} processes, and there are {machine.ranks}: "
            "the same model in more passes."
        )

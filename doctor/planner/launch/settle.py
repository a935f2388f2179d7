"""How the trainer is started on a machine: profile and wishes, made to fit its devices.

A profile's values are taken where they fit; what it leaves open is computed. Nothing here was timed on the devices it
speaks of: memory is reckoned by `nanochat.sizing`, time from peak rates and the shares of them in build/launch.toml.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from doctor.errors import DoctorError, WrongUsage
from doctor.findings.context import Context
from doctor.knowledge.tables import Row, Tables
from doctor.planner.launch import arithmetic
from doctor.planner.launch.arithmetic import Machine
from doctor.planner.launch.cautions import cautions
from doctor.planner.launch.devices import MIB, Accelerator, budget, devices, family, names, row_of
from doctor.planner.launch.environment import cores, environment, source_files
from doctor.planner.terms.plan import Launch, StageSettings, TorchChoice, Wishes

if TYPE_CHECKING:
    from doctor.planner.launch.sizes import Devices, Goal, Size

AUTO = "auto"
SMOKE = "smoke"

MOST_DEPTH = 128
"""As in nanochat/sizing.py: where its searches end."""


def settle(
    context: Context,
    tables: Tables,
    wishes: Wishes,
    torch: TorchChoice,
    *,
    kind: str,
    hub: str | None = None,
) -> Launch:
    """Make profile and wishes fit the machine.

    Args:
        torch: the torch that will be there.
        kind: device type that it drives: npu, cuda, mps or cpu.
        hub: mirror of the Hugging Face hub, where the hub itself cannot be reached.

    Raises:
        WrongUsage: a wish that is wrong in itself.
        DoctorError: wish and machine do not go together.
    """
    _check(wishes)
    name = wishes.profile or (SMOKE if kind == "cpu" else AUTO)
    profile = tables.profile(name)
    kind = _kind(profile, kind, tables)
    machine = _machine(context, tables, wishes, torch, profile, kind)
    goal = _goal(tables, profile, wishes)
    size, room = _size(goal, machine, tables)
    _check_count(profile, wishes, machine)
    auto = tables.rows("launch", "auto")[0]
    data = str(profile.get("data", auto["data"]))
    config, hours = size.setting.config, _hours(size, machine)
    return Launch(
        profile=name,
        device_type=kind,
        backend=str(machine.family["backend"]),
        nproc_per_node=machine.ranks,
        depth=config.depth,
        head_dim=config.head_dim,
        dtype=machine.dtype,
        compile=machine.compiled,
        fp8=bool(profile.get("fp8")) and arithmetic.multiplies_fp8(machine),
        recompute=size.setting.recompute,
        stages=_stages(size, tables, machine.ranks),
        vocab_size=config.vocab_size,
        data=data,
        shards=shards(size.tokens, data, profile, tables),
        num_iterations=size.steps,
        tokens=size.tokens,
        parameters=_parameters(size),
        peak_memory_mb=_peak_mb(size),
        device_memory_mb=_least_memory(machine.used),
        hours=hours,
        energy_kwh=_energy(hours, machine),
        core_metric=bool(profile.get("core_metric", kind != "cpu" and data != "stdlib")),
        env=environment(
            context.facts,
            tables,
            torch,
            kind,
            machine.ranks,
            machine.used,
            compiled=machine.compiled,
            hub=hub,
        ),
        source_files=source_files(context.facts, kind),
        libuv=torch.libuv,
        warnings=(*cautions(context, tables, machine, profile, hours), *room, *size.changes),
        tokenizer_chars=int(profile.get("max_chars", Launch.tokenizer_chars)),
    )


# --- profile and wishes ---------------------------------------------------------------------------


def _check(wishes: Wishes) -> None:
    for name, value in (("depth", wishes.depth), ("nproc", wishes.nproc)):
        if value is not None and value < 1:
            raise WrongUsage(f"--{name} is {value}, but must be at least 1.")
    if wishes.depth is not None and wishes.depth > MOST_DEPTH:
        raise WrongUsage(
            f"--depth is {wishes.depth}, and sizes are known up to {MOST_DEPTH}; choose a smaller one."
        )


def _kind(profile: Row, kind: str, tables: Tables) -> str:
    """The kind of device that a profile runs on: a CPU is in every machine."""
    wanted = str(profile.get("device_type", kind))
    if wanted in (kind, "cpu"):
        return wanted
    nouns = {row["kind"]: f"{row['noun']}s" for row in tables.rows("launch", "family")}
    raise DoctorError(
        f"Profile {profile['name']} is for {nouns.get(wanted, wanted)}, and this machine trains on "
        f"{nouns.get(kind, kind)}; leave the choice to --profile {AUTO}."
    )


def _goal(tables: Tables, profile: Row, wishes: Wishes) -> Goal:
    from doctor.planner.launch.sizes import Goal

    auto = tables.rows("launch", "auto")[0]
    return Goal(
        depth=wishes.depth or profile.get("depth"),
        length=profile.get("max_seq_len"),
        rows=profile.get("device_batch_size"),
        total=profile.get("total_batch_size"),
        steps=profile.get("num_iterations"),
        ratio=float(profile.get("ratio", auto["ratio"])),
        head_dim=int(profile.get("head_dim", auto["head_dim"])),
        vocab_size=int(profile.get("vocab_size", auto["vocab_size"])),
    )


# --- devices ----------------------------------------------------------------------------------------


def _machine(
    context: Context,
    tables: Tables,
    wishes: Wishes,
    torch: TorchChoice,
    profile: Row,
    kind: str,
) -> Machine:
    found = devices(context, tables, kind)
    row, host = family(tables, kind), context.facts.host
    if not found:
        raise DoctorError(
            f"No {row['noun']} is visible, so no training can be set up for one; see what check says of it, "
            f"or try the trainer on the CPU with --profile {SMOKE}."
        )
    most = cores(host) if kind == "cpu" else len(found)
    if wishes.nproc is not None and wishes.nproc > most:
        has = f"{most} {row['noun']} core" if kind == "cpu" else f"{most} {row['noun']}"
        raise DoctorError(
            f"--nproc {wishes.nproc} wants a device for each process, and {has}{'s are' if most > 1 else ' is'} "
            f"usable here ({names(found)}); give at most {most}, or leave it out."
        )
    usual = 1 if kind == "cpu" else most
    ranks = wishes.nproc or min(int(profile.get("nproc", usual)), most)
    used = found[:ranks]
    number = _dtype(profile, arithmetic.dtype(kind, used, host))
    obstacle = arithmetic.compile_obstacle(context, torch, kind, used)
    if kind == "cpu":
        rate = arithmetic.cpu_rate(tables, host, number)
    else:
        rate = arithmetic.rate(tables, kind, used, number, compiled=obstacle is None)
    return Machine(kind, row, used, ranks, number, obstacle, rate)


def _dtype(profile: Row, best: str) -> str:
    """The profile's number type where the devices multiply it, else the best that they do."""
    wanted = str(profile.get("dtype", AUTO))
    return wanted if wanted in ("float32", best) else best


def _check_count(profile: Row, wishes: Wishes, machine: Machine) -> None:
    least = int((profile.get("needs") or {}).get("nproc", 1))
    if wishes.nproc is None and machine.ranks < least:
        raise DoctorError(
            f"Profile {profile['name']} is for {least} {machine.family['noun']}s, and this machine has "
            f"{names(machine.used)}; give --nproc {machine.ranks} to take it as it is, which takes "
            f"{least / machine.ranks:.1f} times as long, or leave the choice to --profile {AUTO}."
        )


# --- size -------------------------------------------------------------------------------------------


def _size(goal: Goal, machine: Machine, tables: Tables) -> tuple[Size, list[str]]:
    """What fits into the memory that is free; where nothing does because others hold it, into all of it."""
    from doctor.planner.launch.sizes import choose

    try:
        return choose(goal, _place(machine, tables, whole=False)), []
    except DoctorError:
        if not any(device.held_mb for device in machine.used):
            raise
    size = choose(goal, _place(machine, tables, whole=True))
    return size, ["These settings are for empty devices; free their memory before you start."]


def _place(machine: Machine, tables: Tables, *, whole: bool) -> Devices:
    from doctor.planner.launch.sizes import Devices

    auto = tables.rows("launch", "auto")[0]
    unknown = int(auto["unknown_mb"]) * MIB
    budgets = [
        budget(device, tables, machine.kind, machine.ranks, whole=whole) for device in machine.used
    ]
    sizes = [unknown if size is None else size for size in budgets]
    smallest = sizes.index(min(sizes))
    return Devices(
        device=machine.used[smallest].name,
        dtype=machine.dtype,
        ranks=machine.ranks,
        memory=sizes[smallest],
        rate=machine.rate,
        family=machine.family,
        auto=auto,
    )


def _stages(size: Size, tables: Tables, ranks: int) -> Mapping[str, StageSettings]:
    from doctor.planner.launch.sizes import stage_batch

    rows, length = size.setting.rows, size.setting.config.sequence_len
    found = {}
    for row in tables.rows("launch", "stage"):
        stage_rows, total, passes = stage_batch(
            rows, length, size.total, ranks, int(row["most_rows"]), int(row["sequences"])
        )
        found[str(row["name"])] = StageSettings(stage_rows, length, total, passes, int(row["port"]))
    return found


def _least_memory(used: Sequence[Accelerator]) -> int | None:
    known = [device.total_mb for device in used]
    return min((size for size in known if size is not None), default=None)


def _peak_mb(size: Size) -> int:
    from nanochat.sizing import memory

    return math.ceil(memory(size.setting).peak / MIB)


def _parameters(size: Size) -> int:
    from nanochat.sizing import parameters

    return parameters(size.setting.config).total


# --- data, time, energy -------------------------------------------------------------------------------


def shards(tokens: int, data: str, profile: Row, tables: Tables) -> int:
    """Shards that a run of so many tokens reads, the one for validation apart."""
    if "shards" in profile:
        return int(profile["shards"])
    row = row_of(tables, "data", "name", data)
    chars = tokens * float(row["chars_per_token"]) / float(row["kept"]) * float(row["spare"])
    read = math.ceil(chars / int(row["chars"]))
    return min(max(read, int(row["tokenizer"])), int(row["most"]))


def _hours(size: Size, machine: Machine) -> float | None:
    from nanochat import sizing

    if machine.rate is None:
        return None
    flops = sizing.flops_per_token(size.setting.config)
    return sizing.training_seconds(size.tokens, flops, machine.rate) / 3600


def _energy(hours: float | None, machine: Machine) -> float | None:
    """Kilowatt hours of the devices at their full power, without the host."""
    watts = [device.row.get("watts") for device in machine.used if device.row]
    if hours is None or len(watts) < machine.ranks or not all(watts):
        return None
    shares = [device.share for device in machine.used]
    return sum(float(w or 0) * s for w, s in zip(watts, shares, strict=True)) * hours / 1000

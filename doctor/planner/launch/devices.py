"""The devices that a run would use, and how much memory each leaves to the trainer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from doctor.errors import DoctorError
from doctor.facts import Gpu, GpuProcess, Host, Npu
from doctor.findings.context import Context, joined
from doctor.findings.rules.npu import BAD_HEALTH
from doctor.knowledge.tables import Row, Tables

MIB = 1 << 20

HELD = 0.1
"""Others "hold" memory of a device from this part of it on; below are driver and desktop."""

MIG_PROFILE = re.compile(r"(?:\d+c\.)?(\d+)g\.(\d+)gb")
"""`3g.40gb`, `1c.3g.40gb`: slices of the processor, and gigabytes of memory."""

MIG_SLICES = 7

MIB_OF_GB = 1000
"""Of a gigabyte on the box, a driver shows at least so many MiB."""


@dataclass(frozen=True)
class Accelerator:
    """One device of a run.

    Attributes:
        memory_mb: all of its memory, or of the part that a MIG instance or a process may have; None is unknown.
        row: its row of build/accelerators.toml.
        cc: compute capability of a GPU.
        series: of an NPU, `910B`.
        free_mb: what other processes leave of its memory; None is unknown.
        bf16: whether it multiplies bfloat16; None is unknown.
        share: the part of the processor that the run has.
        index: number in the driver's list.
        mig: whether it is an instance of a divided GPU.
        shared: whether its memory is the host's.
        holders: processes that hold its memory, in words.
    """

    name: str
    memory_mb: int | None
    row: Row | None = None
    cc: str | None = None
    series: str | None = None
    free_mb: int | None = None
    bf16: bool | None = None
    share: float = 1.0
    index: int = 0
    mig: bool = False
    shared: bool = False
    holders: tuple[str, ...] = ()

    @property
    def total_mb(self) -> int | None:
        """Its memory as the driver tells, else as its table row does."""
        if self.memory_mb is None and self.row is not None and not self.mig:
            return int(self.row["memory_gb"] * MIB_OF_GB)
        return self.memory_mb

    @property
    def held_mb(self) -> int:
        """Memory that others hold, where it is worth a word."""
        if self.memory_mb is None or self.free_mb is None:
            return 0
        held = self.memory_mb - self.free_mb
        return held if held > HELD * self.memory_mb else 0


def devices(context: Context, tables: Tables, kind: str) -> list[Accelerator]:
    """The devices of a kind that a run would find, in their order.

    Visibility counts; devices with a fault that a run would meet are left out. A GPU divided into MIG instances makes
    it one device, since a process sees a single instance, and NCCL joins none.
    """
    if kind == "npu":
        return _npus(context, tables)
    if kind == "cuda":
        return _gpus(context, tables)
    host = context.facts.host
    name = (host.cpu_model if host else None) or ("Apple GPU" if kind == "mps" else "CPU")
    return [Accelerator(name, host_memory(host, tables, kind), shared=True)]


def row_of(tables: Tables, table: str, key: str, value: str) -> Row:
    """The row of build/launch.toml whose key has a value.

    Raises:
        DoctorError: there is none.
    """
    for row in tables.rows("launch", table):
        if row[key] == value:
            return row
    raise DoctorError(f"build/launch.toml has no [[{table}]] row with {key} {value!r}; add one.")


def family(tables: Tables, kind: str) -> Row:
    """The row of a kind of device."""
    return row_of(tables, "family", "kind", kind)


def host_memory(host: Host | None, tables: Tables, kind: str) -> int | None:
    """MiB of the host's memory that devices of a kind may fill."""
    if host is None:
        return None
    # A device that shares the memory finds it empty at the start of a run as little as a CPU does.
    known = [size for size in (host.memory_total, host.cgroup_memory_limit) if size]
    if not known:
        return None
    share = int(min(known) * float(family(tables, kind)["host_share"]))
    return min(share, host.memory_available) if host.memory_available else share


def budget(
    device: Accelerator, tables: Tables, kind: str, ranks: int, *, whole: bool
) -> int | None:
    """Bytes that a device leaves to the trainer's tensors; None where its memory is not known.

    Args:
        ranks: processes of the run; on a CPU they share its memory.
        whole: as if nobody else held any of it.
    """
    total = device.total_mb
    if total is None:
        return None
    row = family(tables, kind)
    usable = total - _display(device, tables)
    if device.free_mb is not None and not whole:
        usable = min(usable, device.free_mb)
    if kind == "cpu":
        usable //= ranks
    usable -= int(row["context_mb"]) + (int(row["ranks_mb"]) if ranks > 1 else 0)
    return max(0, usable) * MIB


def _display(device: Accelerator, tables: Tables) -> int:
    """MiB that a screen takes of cards that may have one."""
    rows = tables.rows("launch", "display")
    found = [int(row["mb"]) for row in rows if re.search(row["pattern"], device.name)]
    return max(found, default=0)


# --- NVIDIA ------------------------------------------------------------------------------------


def _gpus(context: Context, tables: Tables) -> list[Accelerator]:
    nvidia = context.facts.nvidia
    if nvidia is not None and not nvidia.gpus:
        # Without a driver's word, what the bus shows: a plan for after the driver is there.
        listed = [d for d in nvidia.pci_devices if d.compute_capability]
        return [
            Accelerator(d.chip or "NVIDIA GPU", None, cc=d.compute_capability, index=number)
            for number, d in enumerate(listed)
        ]
    chosen = context.sound_gpus or context.gpus
    divided = [gpu for gpu in chosen if gpu.mig_mode == "Enabled" and gpu.mig_instances]
    if divided:
        return [_mig(divided[0], tables)]
    return [_gpu(gpu, context, tables) for gpu in chosen]


def _gpu(gpu: Gpu, context: Context, tables: Tables) -> Accelerator:
    memory, shared = gpu.memory_total, False
    if memory is None and "memory_total" not in gpu.unknown:
        memory, shared = host_memory(context.facts.host, tables, "cuda"), True
    device = Accelerator(
        name=gpu.name or "NVIDIA GPU",
        memory_mb=memory,
        cc=gpu.compute_capability,
        free_mb=None if shared else gpu.memory_free,
        index=gpu.index,
        shared=shared,
        holders=_holders(gpu.processes),
    )
    return _with_row(device, tables)


def _mig(gpu: Gpu, tables: Tables) -> Accelerator:
    """The smallest instance: which of them a process gets is not known."""
    sizes = [
        (int(found[1]), int(found[2]))
        for found in map(MIG_PROFILE.match, gpu.mig_instances)
        if found
    ]
    slices, gigabytes = min(sizes, key=lambda size: size[1], default=(1, 0))
    device = Accelerator(
        name=gpu.name or "NVIDIA GPU",
        memory_mb=gigabytes * 10**9 // MIB or None,
        cc=gpu.compute_capability,
        index=gpu.index,
        share=min(1.0, slices / MIG_SLICES),
        mig=True,
    )
    return _with_row(device, tables)


# --- Ascend ------------------------------------------------------------------------------------


def _npus(context: Context, tables: Tables) -> list[Accelerator]:
    ascend = context.facts.ascend
    if ascend is None:
        return []
    if not ascend.npus:
        # npu-smi gave no answer: as many as there are device nodes, of the series that the bus tells.
        series = next((d.chip for d in ascend.pci_devices if d.chip), None)
        numbers = ascend.visible or range(len(ascend.device_nodes))
        return [
            _with_row(Accelerator("Ascend NPU", None, series=series, index=number), tables)
            for number in numbers
        ]
    chosen = [npu for npu in ascend.npus if npu.index in ascend.visible]
    sound = [npu for npu in chosen if not faulty(npu)]
    return [_npu(npu, context, tables) for npu in sound or chosen]


def faulty(npu: Npu) -> bool:
    """Whether npu-smi reports a fault that a run would meet."""
    return (npu.health or "OK").lower() in BAD_HEALTH


def _npu(npu: Npu, context: Context, tables: Tables) -> Accelerator:
    free = None
    if npu.hbm_total and npu.hbm_used is not None:
        free = max(0, npu.hbm_total - npu.hbm_used)
    bf16 = npu.bf16
    if bf16 is None and npu.series is not None:
        rows = context.tables.rows("ascend", "chip")
        bf16 = next((bool(row["bf16"]) for row in rows if row["series"] == npu.series), None)
    device = Accelerator(
        name=npu.name or "Ascend NPU",
        memory_mb=npu.hbm_total or None,
        series=npu.series,
        free_mb=free,
        index=npu.index,
        bf16=bf16,
        holders=_holders(npu.processes),
    )
    return _with_row(device, tables)


# --- words and tables ---------------------------------------------------------------------------


def _with_row(device: Accelerator, tables: Tables) -> Accelerator:
    """A device with its row of the tables, whose compute capability stands in for an unknown one."""
    row = tables.accelerator(device.name, cc=device.cc, series=device.series)
    cc = device.cc or (row.get("cc") if row else None)
    return replace(device, row=row, cc=cc)


def _holders(processes: Sequence[GpuProcess]) -> tuple[str, ...]:
    return tuple(f"{p.name or 'a process'} (PID {p.pid})" for p in processes)


def names(found: Sequence[Accelerator]) -> str:
    """`8 x NVIDIA H100`, `RTX 5090 and RTX 3060`."""
    counts: dict[str, int] = {}
    for device in found:
        counts[device.name] = counts.get(device.name, 0) + 1
    return joined([f"{n} x {name}" if n > 1 else name for name, n in counts.items()])

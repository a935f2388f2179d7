"""Asks npu-smi, whose only complete answer is a table drawn for people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from doctor.errors import Unknown
from doctor.facts import GpuProcess, Npu, PciDevice
from doctor.knowledge.bus import bus_key
from doctor.knowledge.tables import Tables
from doctor.machine.look import key_values
from doctor.machine.system import NOT_RUN, System

INFO = ["npu-smi", "info"]

NPU_LINE = re.compile(r"^\|\s*(\d+)\s+([A-Za-z0-9_-]+)\s*\|\s*([A-Za-z]+)\s*\|")
CHIP_LINE = re.compile(r"^\|\s*(\d+)(?:\s+(\d+))?\s*\|\s*([0-9A-Fa-f:.]{7,})\s*\|(.*)\|\s*$")
USAGE = re.compile(r"(\d+)\s*/\s*(\d+)")
PROCESS_LINE = re.compile(r"^\|\s*(\d+)\s+(\d+)\s*\|\s*(\d+)\s*\|\s*(.*?)\s*\|\s*(\d+)\s*\|")


@dataclass(frozen=True)
class SmiAnswer:
    """The chips that npu-smi lists, or what it said instead."""

    npus: tuple[Npu, ...] = ()
    error: str | None = None


def start(system: System) -> None:
    """Begin the one call that is always needed."""
    if system.which("npu-smi"):
        system.start(INFO)


def ask(system: System, tables: Tables, on_bus: Sequence[PciDevice]) -> SmiAnswer:
    """Ask npu-smi for all chips and complete what its table leaves open."""
    try:
        done = system.run(INFO)
    except Unknown as error:
        return SmiAnswer(error=str(error))
    npus = parse_info(done.stdout)
    if not npus:
        text = " ".join((done.stdout + "\n" + done.stderr).split())
        if "\ufffd" in text or "\0" in text:
            text = "bytes that are no text"
        return SmiAnswer(error=text[:300] or f"no output, status {done.status}")
    ids = {bus_key(device.address): device.device_id for device in on_bus}
    return SmiAnswer(tuple(_with_series(system, tables, npu, ids) for npu in npus))


def npus_of_bus(tables: Tables, on_bus: Sequence[PciDevice]) -> tuple[Npu, ...]:
    """Chips as the bus has them, where npu-smi may not be run."""
    found = []
    for index, device in enumerate(on_bus):
        chip = tables.ascend_by_pci(device.device_id) or {}
        found.append(
            Npu(
                index=index,
                npu_id=index,
                chip_id=0,
                name=device.chip,
                series=chip.get("series"),
                bf16=chip.get("bf16"),
                bus_id=device.address,
                unknown={"health": NOT_RUN, "hbm_total": NOT_RUN, "hbm_used": NOT_RUN},
            )
        )
    return tuple(found)


def parse_info(text: str) -> tuple[Npu, ...]:
    """Chips and their processes out of `npu-smi info`, each chip a device of its own."""
    npus: list[Npu] = []
    pending: tuple[int, str, str] | None = None
    for line in text.splitlines():
        process = PROCESS_LINE.match(line)
        head, chip = NPU_LINE.match(line), CHIP_LINE.match(line)
        if process:
            _add_process(npus, process)
        elif chip and pending:
            npus.append(_npu(len(npus), pending, chip))
            pending = None
        elif head:
            pending = (int(head[1]), head[2], head[3])
    return tuple(npus)


def _npu(index: int, head: tuple[int, str, str], chip: re.Match[str]) -> Npu:
    # the last pair is HBM; chips without any (310P) have their memory in the pair before it
    pairs = [(int(used), int(total)) for used, total in USAGE.findall(chip[4])]
    used, total = next(((u, t) for u, t in reversed(pairs) if t), (None, None))
    return Npu(
        index=int(chip[2]) if chip[2] else index,
        npu_id=head[0],
        chip_id=int(chip[1]),
        name=head[1],
        health=head[2],
        bus_id=chip[3],
        hbm_total=total,
        hbm_used=used,
    )


def _add_process(npus: list[Npu], match: re.Match[str]) -> None:
    for i, npu in enumerate(npus):
        if (npu.npu_id, npu.chip_id) == (int(match[1]), int(match[2])):
            process = GpuProcess(pid=int(match[3]), name=match[4], memory=int(match[5]))
            npus[i] = replace(npu, processes=(*npu.processes, process))


def _with_series(system: System, tables: Tables, npu: Npu, ids: dict[str, str]) -> Npu:
    """Series and bf16 by PCI id, by name, or by the chip's board page."""
    chip = tables.ascend_by_pci(ids.get(bus_key(npu.bus_id), ""))
    chip = chip or tables.ascend_by_name(npu.name or "")
    if chip is None:
        command = ["npu-smi", "info", "-t", "board", "-i", str(npu.npu_id), "-c", "0"]
        try:
            page = key_values(system.output(command), ":")
        except Unknown as error:
            return replace(npu, unknown={"series": str(error)})
        chip = tables.ascend_by_name(page.get("NPU Name") or page.get("Chip Name") or "")
        chip = chip or tables.ascend_by_pci(page.get("PCI Device ID", ""))
    if chip is None:
        return replace(npu, unknown={"series": f"no row for {npu.name} in build/ascend.toml"})
    return replace(npu, series=chip["series"], bf16=chip["bf16"])

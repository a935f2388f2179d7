"""Asks the driver through nvidia-smi, whose fields differ from version to version."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from doctor.errors import Unknown
from doctor.facts import Gpu, GpuProcess
from doctor.look import number
from doctor.system import Completed, System

FIELDS = (
    "index", "name", "uuid", "pci.bus_id", "pci.device_id", "driver_version", "memory.total", "memory.free",
    "compute_cap", "mig.mode.current", "ecc.mode.current",
    "ecc.errors.uncorrected.volatile.total", "retired_pages.pending", "remapped_rows.pending",
    "remapped_rows.failure", "gpu_recovery_action", "fabric.state",
)  # fmt: skip

BANNER = ["nvidia-smi"]
APPS = ["nvidia-smi", "--query-compute-apps=gpu_uuid,pid,process_name,used_gpu_memory",
        "--format=csv,noheader,nounits"]  # fmt: skip
LIST = ["nvidia-smi", "-L"]
TOPOLOGY = ["nvidia-smi", "topo", "-m"]

REFUSED_FIELD = re.compile(r'Field "([^"]+)" is not a valid field')
ABSENT = re.compile(
    r"^\[?(n/a|not supported|unknown error|insufficient permissions)\]?$", re.IGNORECASE
)
LOST = re.compile(
    r"GPU is lost|fallen off the bus|Unable to determine the device handle", re.IGNORECASE
)

FAULT_FIELDS = {
    "retired_pages.pending": ("yes",),
    "remapped_rows.pending": ("yes",),
    "remapped_rows.failure": ("yes",),
    "gpu_recovery_action": ("gpu reset", "reset", "node reboot", "reboot", "drain p2p",
                            "drain and reset", "drain"),
}  # fmt: skip
"""Field -> answers that mean a fault which lasts until a reset, a reboot or a repair."""


@dataclass(frozen=True)
class DriverAnswer:
    """What the driver said: its version, the highest CUDA, the GPUs; or why it did not."""

    source: str | None = None
    driver_version: str | None = None
    driver_cuda: str | None = None
    gpus: tuple[Gpu, ...] = ()
    error: str | None = None


def start(system: System, several: bool) -> None:
    """Begin all calls that will be needed, side by side: each can take most of a second.

    On a live machine NVML answers all but the topology of several GPUs.
    """
    if system.which("nvidia-smi"):
        for command in () if system.live else (query(FIELDS), BANNER, APPS):
            system.start(command)
        if several:
            system.start(TOPOLOGY)


def query(fields: Sequence[str]) -> list[str]:
    """The command that asks for some fields of every GPU."""
    return ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]


def ask(system: System) -> DriverAnswer:
    """Ask nvidia-smi for all that it knows; the fields that it does not know are left out."""
    if not system.which("nvidia-smi"):
        return DriverAnswer(error="nvidia-smi is not installed")
    for command in (BANNER, APPS):
        system.start(command)
    fields: tuple[str, ...] = FIELDS
    for _ in FIELDS:
        try:
            done = system.run(query(fields))
        except Unknown as error:
            return DriverAnswer(error=str(error))
        refused = set(REFUSED_FIELD.findall(done.stdout + done.stderr))
        if not refused & set(fields):
            break
        fields = tuple(f for f in fields if f not in refused)
    rows = parse_rows(done.stdout, fields)
    if done.status != 0 or not rows:
        return DriverAnswer(error=complaint(done))
    versions = [row["driver_version"] for row in rows if row.get("driver_version")]
    processes = _processes(system)
    instances = _mig_instances(system, rows)
    lost = LOST.search(done.stdout + done.stderr)
    return DriverAnswer(
        source="nvidia-smi",
        driver_version=versions[0] if versions else None,
        driver_cuda=_driver_cuda(system),
        gpus=tuple(_gpu(i, row, processes, instances) for i, row in enumerate(rows)),
        error=lost.group(0) if lost else None,
    )


def parse_rows(text: str, fields: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a csv answer as field -> value; what the device does not have is left out."""
    rows = []
    lines = [line for line in text.splitlines() if line.count(",") >= len(fields) - 1]
    for cells in _cells(lines):
        row = dict(zip(fields, (cell.strip() for cell in cells), strict=False))
        if number(row.get("index", "")) is None or not row.get("name"):
            continue
        rows.append({k: v for k, v in row.items() if v and not ABSENT.match(v)})
    return rows


def _cells(lines: Sequence[str]) -> Iterator[list[str]]:
    """Rows of comma separated values, as far as they can be read."""
    try:
        yield from csv.reader(lines, skipinitialspace=True)
    except csv.Error:
        return


def complaint(done: Completed) -> str:
    """What nvidia-smi said instead of an answer, in one line."""
    text = "\n".join((done.stdout, done.stderr)).strip()
    if "\0" in text or text.count("\ufffd") > 2:
        return "nvidia-smi printed bytes that are no text"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return f"nvidia-smi printed nothing and ended with status {done.status}"
    return " ".join(" ".join(lines[:3]).split())[:300]


def _gpu(
    position: int,
    row: dict[str, str],
    processes: dict[str, list[GpuProcess]],
    instances: dict[int, tuple[str, ...]],
) -> Gpu:
    capability = row.get("compute_cap", "")
    index = number(row.get("index", ""))
    faults = [
        f"{field}: {row[field]}"
        for field, bad in FAULT_FIELDS.items()
        if row.get(field, "").lower() in bad
    ]
    if LOST.search(" ".join(row.values())):
        faults.append("GPU is lost")
    return Gpu(
        index=position if index is None else index,
        name=row.get("name"),
        uuid=row.get("uuid"),
        bus_id=row.get("pci.bus_id"),
        device_id=row["pci.device_id"][:6].lower() if row.get("pci.device_id") else None,
        compute_capability=capability if re.fullmatch(r"\d+\.\d", capability) else None,
        memory_total=number(row.get("memory.total", "")),
        memory_free=number(row.get("memory.free", "")),
        mig_mode=row.get("mig.mode.current"),
        mig_instances=instances.get(index or 0, ()),
        ecc_mode=row.get("ecc.mode.current"),
        ecc_uncorrected=number(row.get("ecc.errors.uncorrected.volatile.total", "")),
        fabric_state=row.get("fabric.state"),
        faults=tuple(faults),
        processes=tuple(processes.get(row.get("uuid", ""), ())),
    )


def _driver_cuda(system: System) -> str | None:
    try:
        match = re.search(r"CUDA Version:\s*(\d+\.\d+)", system.run(BANNER).stdout)
    except Unknown:
        return None
    return match.group(1) if match else None


def _processes(system: System) -> dict[str, list[GpuProcess]]:
    """UUID -> processes with memory on that GPU."""
    found: dict[str, list[GpuProcess]] = {}
    try:
        text = system.run(APPS).stdout
    except Unknown:
        return found
    for cells in _cells(text.splitlines()):
        pid = number(cells[1]) if len(cells) >= 4 else None
        if pid is not None:
            process = GpuProcess(pid=pid, name=cells[2].strip(), memory=number(cells[3]))
            found.setdefault(cells[0].strip(), []).append(process)
    return found


def _mig_instances(system: System, rows: list[dict[str, str]]) -> dict[int, tuple[str, ...]]:
    """GPU index -> its MIG devices, each as `profile UUID`; asked only where MIG is on."""
    if not any(row.get("mig.mode.current") == "Enabled" for row in rows):
        return {}
    try:
        return parse_mig_list(system.run(LIST).stdout)
    except Unknown:
        return {}


def parse_mig_list(text: str) -> dict[int, tuple[str, ...]]:
    """MIG devices out of `nvidia-smi -L`."""
    found: dict[int, list[str]] = {}
    current = None
    for line in text.splitlines():
        gpu = re.match(r"GPU (\d+):", line)
        mig = re.match(r"\s+MIG (\S+)\s+Device\s+\d+:.*UUID:\s*([^)\s]+)", line)
        if gpu:
            current = int(gpu.group(1))
        elif mig and current is not None:
            found.setdefault(current, []).append(f"{mig.group(1)} {mig.group(2)}")
    return {index: tuple(items) for index, items in found.items()}


def topology(system: System, count: int) -> tuple[tuple[str, ...], ...]:
    """Links between GPUs; asked only where there are several.

    Raises:
        Unknown: nvidia-smi does not tell.
    """
    if count < 2 or not system.which("nvidia-smi"):
        return ()
    return parse_topology(system.output(TOPOLOGY), count)


def parse_topology(text: str, count: int) -> tuple[tuple[str, ...], ...]:
    """The matrix of `nvidia-smi topo -m`.

    Raises:
        Unknown: it is not complete.
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    rows = [line.split() for line in plain.splitlines() if re.match(r"GPU\d+\s", line)]
    matrix = tuple(tuple(row[1 : count + 1]) for row in rows)
    if len(matrix) != count or any(len(row) != count for row in matrix):
        raise Unknown("nvidia-smi topo printed no complete matrix")
    return matrix

"""Asks the driver through nvidia-smi, whose fields differ from version to version."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from doctor.errors import Unknown
from doctor.facts import Gpu, GpuProcess
from doctor.machine.look import number
from doctor.machine.system import Completed, System
from doctor.probe.nvidia.fields import CORE, SMI_FIELDS, Row, clean, gpu

BANNER = ["nvidia-smi"]
APPS = ["nvidia-smi", "--query-compute-apps=gpu_uuid,pid,process_name,used_gpu_memory",
        "--format=csv,noheader,nounits"]  # fmt: skip
LIST = ["nvidia-smi", "-L"]
TOPOLOGY = ["nvidia-smi", "topo", "-m"]

REFUSED_FIELD = re.compile(r'Field "([^"]+)" is not a valid field')
HANDLE = re.compile(
    r"Unable to determine the device handle for GPU\s*(?:(\d{1,3})\s*:\s*)?"
    r"([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f])\s*:\s*([^.\n]+)",
    re.IGNORECASE,
)
"""Said of each card that no longer answers, in front of the rows of the others."""

NO_DEVICES = "No devices were found"

BAD_USAGE = (2, -11, 139)
"""Statuses of an nvidia-smi that stumbled over a question: a wrong argument, a crash."""


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
        for command in () if system.live else (query(SMI_FIELDS), BANNER, APPS):
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
    try:
        done, fields = _query(system, SMI_FIELDS)
        rows = parse_rows(done.stdout, fields)
        if not rows and done.status in BAD_USAGE:
            done, fields = _query(system, CORE)
            rows = parse_rows(done.stdout, fields)
    except Unknown as error:
        return DriverAnswer(error=str(error))
    rows = _with_lost(rows, done.stdout + done.stderr)
    if not rows:
        return DriverAnswer(error=complaint(done))
    versions = [row["driver_version"] for row in rows if row.get("driver_version")]
    processes = _processes(system)
    instances = _mig_instances(system, rows)
    return DriverAnswer(
        source="nvidia-smi",
        driver_version=versions[0] if versions else None,
        driver_cuda=_driver_cuda(system),
        gpus=tuple(
            gpu(row, processes.get(row.get("uuid", ""), ()), instances.get(int(row["index"]), ()))
            for row in rows
        ),
    )


def _query(system: System, fields: Sequence[str]) -> tuple[Completed, Sequence[str]]:
    """What it says, and to which fields: those that this version does not know are left out."""
    for _ in range(len(fields)):
        done = system.run(query(fields))
        refused = set(REFUSED_FIELD.findall(done.stdout + done.stderr)) & set(fields)
        if not refused:
            break
        fields = tuple(f for f in fields if f not in refused)
    return done, fields


def _with_lost(rows: list[Row], text: str) -> list[Row]:
    """The rows and one for each card of which nvidia-smi only says that it cannot be asked."""
    taken = {row["index"] for row in rows}
    free = (str(i) for i in range(len(rows) + 64) if str(i) not in taken)
    for told, address, said in HANDLE.findall(text):
        index = told if told and told not in taken else next(free)
        taken.add(index)
        rows.append({"index": index, "name": f"[{said.strip()}]", "pci.bus_id": address})
    return sorted(rows, key=lambda row: int(row["index"]))


def parse_rows(text: str, fields: Sequence[str]) -> list[Row]:
    """Rows of a csv answer; what the device does not have is left out."""
    rows = []
    lines = [line for line in text.splitlines() if line.count(",") >= len(fields) - 1]
    for cells in _cells(lines):
        row = clean(dict(zip(fields, (cell.strip() for cell in cells), strict=False)))
        index = number(row.get("index", ""))
        if index is not None and row.get("name"):
            rows.append(row | {"index": str(index)})
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


def _mig_instances(system: System, rows: Sequence[Row]) -> dict[int, tuple[str, ...]]:
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

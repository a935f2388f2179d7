"""The one table of what is asked about an NVIDIA GPU, whether NVML or nvidia-smi is asked.

NVML's answers are put in nvidia-smi's words, errors among them, so that one reader turns the rows
of both into facts: the same machine has the same facts, whoever told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from doctor.facts import Gpu, GpuProcess
from doctor.machine.look import MIB, number

Row = dict[str, str]
"""Field of nvidia-smi -> its answer; what the device does not have is left out."""


@dataclass(frozen=True)
class Field:
    """One question.

    Attributes:
        smi: nvidia-smi's name of the field.
        fact: the field of `Gpu` that it fills, or that stays unknown with it.
        nvml: asks the module pynvml about a handle; None where the device has no such thing.
    """

    smi: str
    fact: str
    nvml: Callable[[Any, Any], str | int | None]


def _memory(part: str) -> Callable[[Any, Any], int | None]:
    """MiB; NVML counts 0 on a device that shares the host's memory, nvidia-smi says N/A."""

    def ask(nvml: Any, handle: Any) -> int | None:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return getattr(memory, part) // MIB if memory.total else None

    return ask


def _capability(nvml: Any, handle: Any) -> str:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return f"{major}.{minor}"


def _uncorrected(nvml: Any, handle: Any) -> int:
    kind, since = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
    return int(nvml.nvmlDeviceGetTotalEccErrors(handle, kind, since))


def _yes(value: Any) -> str:
    return "Yes" if value else "No"


def _enabled(value: Any) -> str:
    return "Enabled" if value else "Disabled"


COMPUTE_MODES = ("Default", "Exclusive_Thread", "Prohibited", "Exclusive_Process")
RECOVERY_ACTIONS = ("None", "Reset", "Reboot", "Drain P2P", "Drain and Reset",
                    "Recover IMEX Domain", "Bus Reset", "System Reboot")  # fmt: skip
FABRIC_STATES = (None, "Not Started", "In Progress", "Completed")
"""Each in the order of NVML's numbers (nvml.h)."""


def _word(words: Sequence[str | None], value: int) -> str | None:
    return words[value] if 0 <= value < len(words) else f"state {value}"


def _recovery(nvml: Any, handle: Any) -> str | None:
    (value,) = nvml.nvmlDeviceGetFieldValues(handle, [nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
    if value.nvmlReturn != nvml.NVML_SUCCESS:
        raise nvml.NVMLError(value.nvmlReturn)
    return _word(RECOVERY_ACTIONS, value.value.uiVal)


def _fabric(nvml: Any, handle: Any) -> Any:
    info = nvml.c_nvmlGpuFabricInfo_t()
    nvml.nvmlDeviceGetGpuFabricInfo(handle, nvml.byref(info))
    return info


def _fabric_state(nvml: Any, handle: Any) -> str | None:
    return _word(FABRIC_STATES, _fabric(nvml, handle).state)


def _fabric_status(nvml: Any, handle: Any) -> str | None:
    info = _fabric(nvml, handle)
    if info.state != nvml.NVML_GPU_FABRIC_STATE_COMPLETED:
        return None
    return "Success" if info.status == nvml.NVML_SUCCESS else complaint(nvml, info.status)


FIELDS = (
    Field("name", "name", lambda n, h: n.nvmlDeviceGetName(h)),
    Field("uuid", "uuid", lambda n, h: n.nvmlDeviceGetUUID(h)),
    Field("pci.bus_id", "bus_id", lambda n, h: n.nvmlDeviceGetPciInfo(h).busId),
    Field("pci.device_id", "device_id", lambda n, h: f"0x{n.nvmlDeviceGetPciInfo(h).pciDeviceId:08X}"),
    Field("memory.total", "memory_total", _memory("total")),
    Field("memory.free", "memory_free", _memory("free")),
    Field("compute_cap", "compute_capability", _capability),
    Field("compute_mode", "compute_mode",
          lambda n, h: _word(COMPUTE_MODES, n.nvmlDeviceGetComputeMode(h))),
    Field("mig.mode.current", "mig_mode", lambda n, h: _enabled(n.nvmlDeviceGetMigMode(h)[0])),
    Field("ecc.mode.current", "ecc_mode", lambda n, h: _enabled(n.nvmlDeviceGetEccMode(h)[0])),
    Field("ecc.errors.uncorrected.volatile.total", "ecc_uncorrected", _uncorrected),
    Field("retired_pages.pending", "faults",
          lambda n, h: _yes(n.nvmlDeviceGetRetiredPagesPendingStatus(h))),
    Field("remapped_rows.pending", "faults", lambda n, h: _yes(n.nvmlDeviceGetRemappedRows(h)[2])),
    Field("remapped_rows.failure", "faults", lambda n, h: _yes(n.nvmlDeviceGetRemappedRows(h)[3])),
    Field("gpu_recovery_action", "faults", _recovery),
    Field("fabric.state", "fabric_state", _fabric_state),
    Field("fabric.status", "fabric_status", _fabric_status),
)  # fmt: skip

CORE = ("index", "name", "uuid", "pci.bus_id", "driver_version", "memory.total", "memory.free")
"""What every nvidia-smi answers, where one stumbles over the rest."""

SMI_FIELDS = ("index", "driver_version", *(field.smi for field in FIELDS))

FACTS: Mapping[str, str] = {field.smi: field.fact for field in FIELDS}

SMI_WORDS = {15: "GPU is lost", 16: "GPU requires reset",
             17: "GPU access blocked by the operating system",
             18: "Driver/library version mismatch"}  # fmt: skip
"""Errors that pynvml words otherwise than nvidia-smi, by their number (nvmlReturn_t)."""


def complaint(nvml: Any, code: int) -> str:
    """An error of NVML in nvidia-smi's words."""
    return SMI_WORDS.get(code) or str(nvml.NVMLError(code))


# --- a row as facts ---------------------------------------------------------------------------

ABSENT = re.compile(r"^\[?(n/a|none|not (supported|found|available)|function not found|unknown|"
                    r"requested functionality has been deprecated)\]?$", re.IGNORECASE)  # fmt: skip
TROUBLE = re.compile(r"^\[(.+)\]$|^(ERR!|GPU is lost|GPU requires reset|Unknown Error)$")
"""An answer that is none: `[Unknown Error]`, `[GPU requires reset]`."""

DEAD = re.compile(r"lost|fallen off the bus|requires (reset|restart)", re.IGNORECASE)
"""Of the whole card, in whichever field it stands."""

DENIED = re.compile("permission", re.IGNORECASE)

ESSENTIAL = ("name", "uuid", "memory.total")
"""What any card that works tells."""

FAULT_FIELDS = {"retired_pages.pending": "no", "remapped_rows.pending": "no",
                "remapped_rows.failure": "no", "gpu_recovery_action": "none"}  # fmt: skip
"""Field -> the answer of a sound card that has such a thing."""


def clean(row: Row) -> Row:
    """A row without what the device does not have."""
    return {field: answer for field, answer in row.items() if answer and not ABSENT.match(answer)}


def trouble(answer: str | None) -> str | None:
    """What stands in place of an answer, without its brackets; None where there is an answer."""
    match = TROUBLE.match(answer or "")
    return (match.group(1) or match.group(2)) if match else None


def faults(row: Row) -> tuple[str, ...]:
    """Signs of faults that last, each once, in nvidia-smi's words."""
    signs = []
    for field, answer in row.items():
        said = trouble(answer)
        if said and DEAD.search(said):
            signs.append(said)
        elif said and field in ESSENTIAL and not DENIED.search(said):
            signs.append(f"{field}: {said}")
        elif not said and answer.lower() != FAULT_FIELDS.get(field, answer.lower()):
            signs.append(f"{field}: {answer}")
    return tuple(dict.fromkeys(signs))


def gpu(row: Row, processes: Sequence[GpuProcess] = (), instances: Sequence[str] = ()) -> Gpu:
    """A card as its row shows it."""
    good = {field: answer for field, answer in row.items() if not trouble(answer)}
    capability = good.get("compute_cap", "")
    device = good.get("pci.device_id")
    reasons = {
        FACTS[field]: f"the driver says: {trouble(answer)}"
        for field, answer in row.items()
        if field in FACTS and trouble(answer)
    }
    return Gpu(
        index=number(row["index"]) or 0,
        name=good.get("name"),
        uuid=good.get("uuid"),
        bus_id=good.get("pci.bus_id"),
        device_id=device[:6].lower() if device else None,
        compute_capability=capability if re.fullmatch(r"\d+\.\d", capability) else None,
        compute_mode=good.get("compute_mode"),
        memory_total=number(good.get("memory.total", "")),
        memory_free=number(good.get("memory.free", "")),
        mig_mode=good.get("mig.mode.current"),
        mig_instances=tuple(instances),
        ecc_mode=good.get("ecc.mode.current"),
        ecc_uncorrected=number(good.get("ecc.errors.uncorrected.volatile.total", "")),
        fabric_state=good.get("fabric.state"),
        fabric_status=good.get("fabric.status"),
        faults=faults(row),
        processes=tuple(processes),
        unknown=reasons,
    )

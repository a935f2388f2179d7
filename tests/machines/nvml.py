"""A stand-in for libnvidia-ml.so.1: plays a described machine to the real pynvml.

It answers from the same rows as the nvidia-smi of that machine, through the real structures, so
that what pynvml makes of codes and fields is what it makes of a driver's.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from typing import Any

import pynvml

from doctor.probe.nvidia.nvidia_smi import parse_mig_list
from machines.describe import Nvidia
from machines.gpus import DRIVER_CUDA, smi_row

MIB = 1 << 20
SUCCESS, NOT_SUPPORTED, NO_PERMISSION, INSUFFICIENT_SIZE = 0, 3, 4, 7
CODES = {"Unknown Error": 999, "GPU is lost": 15, "GPU requires reset": 16, "Not Supported": 3,
         "Insufficient Permissions": 4, "N/A": 3, "Insufficient Resources": 23,
         "Driver/library version mismatch": 18, "blocked by the operating system": 17,
         "couldn't communicate with the NVIDIA driver": 9}  # fmt: skip
"""nvidia-smi's words -> nvmlReturn_t."""

ENABLED = {"Enabled": 1, "Disabled": 0}
YES = {"Yes": 1, "No": 0}
MODES = {"Default": 0, "Exclusive_Thread": 1, "Prohibited": 2, "Exclusive_Process": 3}
ACTIONS = {"None": 0, "Reset": 1, "Reboot": 2, "Drain P2P": 3, "Drain and Reset": 4}
FABRIC = {"Not Started": 1, "In Progress": 2, "Completed": 3}

MIG_HANDLES = 1000
"""Handles are numbers: 1 + card, and from here on (card + 1) * 1000 + instance."""


def code(text: str) -> int:
    """The error that a text of nvidia-smi stands for; 0 where it is an answer."""
    return next((number for words, number in CODES.items() if words in text), 0)


def _put(reference: Any, value: Any) -> int:
    target = getattr(reference, "_obj", reference)
    if isinstance(target, ctypes.Array):
        target.value = str(value).encode()
    else:
        target.value = value
    return SUCCESS


class Library:
    """What pynvml keeps in `nvmlLib`."""

    def __init__(self, it: Nvidia) -> None:
        self.it = it
        says = it.says or ""
        alone = ["Unable to determine"] if "device handle" in says else []
        self.init = 0 if alone or "No devices" in says else code(says)
        self.rows = (
            [smi_row(i, c, str(it.driver)) for i, c in enumerate(it.cards)] if not says else []
        )
        self.lost = [says] if alone else it.warns.splitlines()
        self.instances = parse_mig_list(it.listing or "")

    def __getattr__(self, name: str) -> Any:
        """As in a library of ctypes: a function for each symbol that it has."""
        method: Callable[..., int] | None = type(self).__dict__.get(name.removeprefix("nvml"))
        if method is None or not name.startswith("nvml"):
            raise AttributeError(name)

        def symbol(*arguments: Any) -> int:
            return method(self, *arguments)

        setattr(self, name, symbol)  # pynvml may set restype on it
        return symbol

    # --- the machine ---------------------------------------------------------------------

    def InitWithFlags(self, _: int) -> int:
        return self.init

    def Shutdown(self) -> int:
        return SUCCESS

    def ErrorString(self, number: int) -> bytes:
        return next((w.encode() for w, n in CODES.items() if n == number), b"another error")

    def SystemGetDriverVersion(self, buffer: Any, _: Any) -> int:
        return _put(buffer, self.it.driver)

    def SystemGetCudaDriverVersion_v2(self, version: Any) -> int:
        known = self.it.cuda or DRIVER_CUDA.get(str(self.it.driver).split(".")[0], "13.0")
        major, minor = known.split(".")
        return _put(version, int(major) * 1000 + int(minor) * 10)

    def SystemGetProcessName(self, pid: Any, buffer: Any, _: Any) -> int:
        names = {
            int(line.split(", ")[1]): line.split(", ")[2] for line in self.it.apps.splitlines()
        }
        return _put(buffer, names[getattr(pid, "value", pid)])

    def DeviceGetCount_v2(self, count: Any) -> int:
        return _put(count, len(self.rows) + len(self.lost))

    def DeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:
        number = getattr(index, "value", index)
        if number >= len(self.rows):
            return code(self.lost[number - len(self.rows)])
        ctypes.c_void_p.from_address(ctypes.addressof(handle._obj)).value = number + 1
        return SUCCESS

    # --- a card --------------------------------------------------------------------------

    def _number(self, handle: Any) -> int:
        return int(ctypes.cast(handle, ctypes.c_void_p).value or 0)

    def _ask(self, handle: Any, field: str, put: Callable[[str], object]) -> int:
        answer = self.rows[self._number(handle) - 1].get(field, "[N/A]")
        error = code(answer) if answer.startswith("[") else 0
        if not error:
            put(answer)
        return error

    def _mig(self, handle: Any) -> list[str] | None:
        card, part = divmod(self._number(handle), MIG_HANDLES)
        return self.instances[card - 1][part].split() if card else None

    def DeviceGetName(self, handle: Any, buffer: Any, _: Any) -> int:
        if mig := self._mig(handle):
            return _put(buffer, f"NVIDIA card MIG {mig[0]}")
        return self._ask(handle, "name", lambda text: _put(buffer, text))

    def DeviceGetUUID(self, handle: Any, buffer: Any, _: Any) -> int:
        if mig := self._mig(handle):
            return _put(buffer, mig[1])
        return self._ask(handle, "uuid", lambda text: _put(buffer, text))

    def DeviceGetPciInfo_v3(self, handle: Any, info: Any) -> int:
        def put(text: str) -> None:
            info._obj.busId = text.encode()
            row = self.rows[self._number(handle) - 1]
            info._obj.pciDeviceId = int(row["pci.device_id"], 16)

        return self._ask(handle, "pci.bus_id", put)

    def DeviceGetMemoryInfo(self, handle: Any, info: Any) -> int:
        free = self.rows[self._number(handle) - 1].get("memory.free", "0")

        def put(text: str) -> None:
            info._obj.total, info._obj.free = int(text) * MIB, int(free) * MIB

        return self._ask(handle, "memory.total", put)

    def DeviceGetCudaComputeCapability(self, handle: Any, major: Any, minor: Any) -> int:
        def put(text: str) -> None:
            _put(major, int(text.split(".")[0]))
            _put(minor, int(text.split(".")[1]))

        return self._ask(handle, "compute_cap", put)

    def DeviceGetComputeMode(self, handle: Any, mode: Any) -> int:
        return self._ask(handle, "compute_mode", lambda text: _put(mode, MODES[text]))

    def DeviceGetMigMode(self, handle: Any, current: Any, _: Any) -> int:
        return self._ask(handle, "mig.mode.current", lambda text: _put(current, ENABLED[text]))

    def DeviceGetMaxMigDeviceCount(self, handle: Any, count: Any) -> int:
        return _put(count, 7)

    def DeviceGetMigDeviceHandleByIndex(self, device: Any, index: Any, handle: Any) -> int:
        card, part = self._number(device) - 1, getattr(index, "value", index)
        if part >= len(self.instances.get(card, ())):
            return 6
        number = (card + 1) * MIG_HANDLES + part
        ctypes.c_void_p.from_address(ctypes.addressof(handle._obj)).value = number
        return SUCCESS

    def DeviceGetEccMode(self, handle: Any, current: Any, _: Any) -> int:
        return self._ask(handle, "ecc.mode.current", lambda text: _put(current, ENABLED[text]))

    def DeviceGetTotalEccErrors(self, handle: Any, _kind: Any, _since: Any, count: Any) -> int:
        field = "ecc.errors.uncorrected.volatile.total"
        return self._ask(handle, field, lambda text: _put(count, int(text)))

    def DeviceGetRetiredPagesPendingStatus(self, handle: Any, pending: Any) -> int:
        return self._ask(handle, "retired_pages.pending", lambda text: _put(pending, YES[text]))

    def DeviceGetRemappedRows(
        self, handle: Any, _corrected: Any, _uncorrected: Any, pending: Any, failed: Any
    ) -> int:
        row = self.rows[self._number(handle) - 1]
        answers = [row.get(f"remapped_rows.{part}", "[N/A]") for part in ("pending", "failure")]
        if all(code(answer) for answer in answers):
            return code(answers[0])
        _put(failed, YES.get(answers[1], 0))
        return _put(pending, YES.get(answers[0], 0))

    def DeviceGetFieldValues(self, handle: Any, _: Any, values: Any) -> int:
        value = values._obj[0]
        assert value.fieldId == pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION

        def put(text: str) -> None:
            value.value.uiVal = ACTIONS[text]

        value.nvmlReturn = self._ask(handle, "gpu_recovery_action", put)
        return SUCCESS

    def DeviceGetGpuFabricInfo(self, handle: Any, info: Any) -> int:
        def put(text: str) -> None:
            status = self.rows[self._number(handle) - 1].get("fabric.status", "Success")
            info._obj.state, info._obj.status = FABRIC[text], code(status)

        return self._ask(handle, "fabric.state", put)

    def DeviceGetComputeRunningProcesses_v3(self, handle: Any, count: Any, table: Any) -> int:
        number = self._number(handle) - 1
        lines = [re.split(", ", line) for line in self.it.apps.splitlines()]
        mine = [line for line in lines if int(line[0]) == number]
        if table is None:
            _put(count, len(mine))
            return INSUFFICIENT_SIZE if mine else SUCCESS
        for i, line in enumerate(mine):
            table[i].pid, table[i].usedGpuMemory = int(line[1]), int(line[3]) * MIB
        return _put(count, len(mine))

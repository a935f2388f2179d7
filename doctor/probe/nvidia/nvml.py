"""Asks the driver through NVML, which answers in milliseconds where nvidia-smi takes a second."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from doctor.errors import Unknown
from doctor.facts import GpuProcess
from doctor.machine.look import MIB
from doctor.probe.nvidia.fields import FIELDS, Row, clean, complaint, gpu
from doctor.probe.nvidia.nvidia_smi import NO_DEVICES, DriverAnswer


def ask() -> DriverAnswer:
    """Ask NVML for what `nvidia_smi.ask` asks nvidia-smi; its refusals are an answer too.

    Raises:
        Unknown: there is no NVML here to ask.
    """
    try:
        import pynvml
    except ImportError as error:
        raise Unknown(f"nvidia-ml-py is not importable: {error}") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            raise Unknown("the driver's libnvidia-ml.so.1 is not found") from error
        said = complaint(pynvml, error.value)
        return DriverAnswer(error=f"Failed to initialize NVML: {said}")
    try:
        return _answer(pynvml)
    except pynvml.NVMLError as error:
        return DriverAnswer(error=f"NVML: {complaint(pynvml, error.value)}")
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _answer(nvml: Any) -> DriverAnswer:
    version = _text(nvml.nvmlSystemGetDriverVersion())
    gpus, denied = [], None
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
        except nvml.NVMLError as error:
            said = complaint(nvml, error.value)
            if error.value == nvml.NVML_ERROR_NO_PERMISSION:
                denied = said  # kept from this process, as nvidia-smi too passes over it
            else:
                gpus.append(gpu({"index": str(index), "name": f"[{said}]"}))
            continue
        row = clean({"index": str(index)} | _row(nvml, handle))
        gpus.append(gpu(row, list(_processes(nvml, handle)), list(_instances(nvml, handle, row))))
    if not gpus:
        return DriverAnswer(driver_version=version, error=denied or NO_DEVICES)
    cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
    return DriverAnswer(
        source="nvml",
        driver_version=version,
        driver_cuda=f"{cuda // 1000}.{cuda % 1000 // 10}",
        gpus=tuple(gpus),
    )


def _row(nvml: Any, handle: Any) -> Row:
    """What nvidia-smi would print of a card."""
    row = {}
    for field in FIELDS:
        try:
            answer = field.nvml(nvml, handle)
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound, AttributeError):
            continue  # no such thing on this card, in this driver, or in this nvidia-ml-py
        except nvml.NVMLError as error:
            answer = f"[{complaint(nvml, error.value)}]"
        if answer is not None:
            row[field.smi] = _text(answer)
    return row


def _text(value: str | bytes | int) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _instances(nvml: Any, handle: Any, row: Row) -> Iterator[str]:
    """MIG devices, each as `profile UUID`."""
    if row.get("mig.mode.current") != "Enabled":
        return
    with contextlib.suppress(nvml.NVMLError):
        for i in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            with contextlib.suppress(nvml.NVMLError):
                device = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, i)
                name = _text(nvml.nvmlDeviceGetName(device)).rsplit(" ", 1)[-1]
                yield f"{name} {_text(nvml.nvmlDeviceGetUUID(device))}"


def _processes(nvml: Any, handle: Any) -> Iterator[GpuProcess]:
    with contextlib.suppress(nvml.NVMLError):
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            name = None
            with contextlib.suppress(nvml.NVMLError):
                name = _text(nvml.nvmlSystemGetProcessName(process.pid))
            used = process.usedGpuMemory
            yield GpuProcess(pid=process.pid, name=name, memory=used // MIB if used else None)

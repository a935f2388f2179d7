"""Asks the driver through NVML, which answers in milliseconds where nvidia-smi takes a second."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from doctor.errors import Unknown
from doctor.facts import Gpu, GpuProcess
from doctor.look import MIB
from doctor.probe.nvidia_smi import DriverAnswer


def ask() -> DriverAnswer:
    """Ask NVML for what `nvidia_smi.ask` asks nvidia-smi.

    Raises:
        Unknown: the library is absent, refuses to start, or lists no device.
    """
    try:
        import pynvml
    except ImportError as error:
        raise Unknown(f"nvidia-ml-py is not importable: {error}") from error
    with _started(pynvml):
        try:
            count = pynvml.nvmlDeviceGetCount()
            cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
            return DriverAnswer(
                source="nvml",
                driver_version=_text(pynvml.nvmlSystemGetDriverVersion()),
                driver_cuda=f"{cuda // 1000}.{cuda % 1000 // 10}",
                gpus=tuple(_gpu(pynvml, i) for i in range(count)),
            )
        except pynvml.NVMLError as error:
            raise Unknown(f"NVML: {error}") from error


@contextlib.contextmanager
def _started(nvml: Any) -> Iterator[None]:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise Unknown(f"NVML does not start: {error}") from error
    try:
        yield
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _gpu(nvml: Any, index: int) -> Gpu:
    reasons: dict[str, str] = {}
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError as error:
        return Gpu(index=index, faults=(f"no handle: {error}",), unknown={"name": str(error)})

    def get(name: str, call: Callable[[], Any]) -> Any:
        """The answer; None where the device has no such thing, with the reason where it fails."""
        try:
            return call()
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
            return None
        except nvml.NVMLError as error:
            reasons[name] = f"NVML: {error}"
            return None

    capability = get("compute_capability", lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle))
    pci = get("bus_id", lambda: nvml.nvmlDeviceGetPciInfo(handle))
    memory = get("memory_total", lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    mig = get("mig_mode", lambda: nvml.nvmlDeviceGetMigMode(handle))
    ecc = get("ecc_mode", lambda: nvml.nvmlDeviceGetEccMode(handle))
    errors = None
    if ecc and ecc[0]:
        errors = get(
            "ecc_uncorrected",
            lambda: nvml.nvmlDeviceGetTotalEccErrors(
                handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
            ),
        )
    return Gpu(
        index=index,
        name=_text(get("name", lambda: nvml.nvmlDeviceGetName(handle)) or "") or None,
        uuid=_text(get("uuid", lambda: nvml.nvmlDeviceGetUUID(handle)) or "") or None,
        bus_id=_text(pci.busId) if pci else None,
        device_id=f"0x{pci.pciDeviceId >> 16:04x}" if pci else None,
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        memory_total=memory.total // MIB if memory and memory.total else None,
        memory_free=memory.free // MIB if memory and memory.total else None,
        mig_mode=None if mig is None else ("Enabled" if mig[0] else "Disabled"),
        mig_instances=tuple(_mig_instances(nvml, handle)) if mig and mig[0] else (),
        ecc_mode=None if ecc is None else ("Enabled" if ecc[0] else "Disabled"),
        ecc_uncorrected=errors,
        faults=tuple(_faults(nvml, handle)),
        processes=tuple(_processes(nvml, handle)),
        unknown=reasons,
    )


def _mig_instances(nvml: Any, handle: Any) -> Iterator[str]:
    with contextlib.suppress(nvml.NVMLError):
        for i in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            with contextlib.suppress(nvml.NVMLError):
                device = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, i)
                name = _text(nvml.nvmlDeviceGetName(device)).rsplit(" ", 1)[-1]
                yield f"{name} {_text(nvml.nvmlDeviceGetUUID(device))}"


def _faults(nvml: Any, handle: Any) -> Iterator[str]:
    """Faults that last, in nvidia-smi's words."""
    with contextlib.suppress(nvml.NVMLError):
        _, _, pending, failed = nvml.nvmlDeviceGetRemappedRows(handle)
        if pending:
            yield "remapped_rows.pending: Yes"
        if failed:
            yield "remapped_rows.failure: Yes"
    with contextlib.suppress(nvml.NVMLError):
        if nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle):
            yield "retired_pages.pending: Yes"


def _processes(nvml: Any, handle: Any) -> Iterator[GpuProcess]:
    with contextlib.suppress(nvml.NVMLError):
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            name = None
            with contextlib.suppress(nvml.NVMLError):
                name = _text(nvml.nvmlSystemGetProcessName(process.pid))
            used = process.usedGpuMemory
            yield GpuProcess(pid=process.pid, name=name, memory=used // MIB if used else None)

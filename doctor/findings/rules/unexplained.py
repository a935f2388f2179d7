"""The last word on accelerators: one that is there and cannot be used never goes without an error.

Rules name causes that are known. Where none of them spoke, this says so, so that no machine with an
accelerator is planned for its CPU in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from doctor.findings.context import Context
from doctor.findings.finding import ERROR, Finding


def devices(c: Context, found: Sequence[Finding]) -> Iterator[Finding]:
    """Errors for GPUs and NPUs that no process could use and no finding tells of."""
    nvidia, ascend = c.facts.nvidia, c.facts.ascend
    told = {f.code.partition(".")[0] for f in found if f.severity == ERROR}
    wsl = any(f.code == "host.wsl" for f in found)
    if nvidia and c.has_nvidia and not c.gpus and "cuda" not in told and not wsl:
        yield c.finding(
            "cuda.init-failed",
            ERROR,
            f"{c.gpus_are} here, and no process would see it; nothing that was looked at tells why.",
            [
                *(
                    f"on the bus: {d.address} ({d.chip or d.device_id})"
                    for d in nvidia.pci_devices[:4]
                ),
                *nvidia.device_nodes[:2],
                f"driver: {c.driver or 'none'}",
            ],
            "Run nvidia-smi by hand; what it says names the cause.",
            ["nvidia-smi"],
        )
    if (
        ascend
        and c.has_npu
        and not ascend.visible
        and "npu" not in told
        and not ascend.device_nodes
    ):
        yield c.finding(
            "npu.init-failed",
            ERROR,
            "An Ascend NPU is here, and no process would see it; nothing that was looked at tells why.",
            [f"on the bus: {d.address} ({d.chip or d.device_id})" for d in ascend.pci_devices[:4]]
            or ["npu-smi lists it"],
            "Run npu-smi by hand; what it says names the cause.",
            ["npu-smi info"],
        )

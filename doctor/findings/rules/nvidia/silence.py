"""Why a driver that is there gives this process no answer: who keeps it from the cards."""

from __future__ import annotations

from doctor.facts import Nvidia
from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, Finding
from doctor.knowledge.card_state import container_cure

BLOCKED = "blocked by the operating system"
UNKNOWN = "unknown error"
DENIED = "insufficient permissions"
NO_DEVICES = "no devices were found"

WINDOWS = (
    "On Windows: `wsl --update`, then `wsl --shutdown`; update its NVIDIA driver; a card of a server (L40S, A100) "
    "must be in the WDDM mode (`nvidia-smi -dm 0` as administrator), since WSL reaches none in TCC mode; a Windows "
    "Server must be 2022 or newer."
)


def explained(c: Context, nvidia: Nvidia, evidence: list[str]) -> Finding | None:
    """The finding for a refusal whose reason lies around the driver; None for others."""
    said = (nvidia.smi_error or "").lower()
    if not nvidia.smi_error and nvidia.source and not nvidia.gpus:
        said = NO_DEVICES
    if c.wsl and (BLOCKED in said or NO_DEVICES in said):
        return _windows(c, nvidia, evidence)
    denied = [node for node in nvidia.closed_nodes if node in nvidia.device_nodes]
    refusal = next((mark for mark in (BLOCKED, UNKNOWN, DENIED, NO_DEVICES) if mark in said), None)
    if refusal is None:
        return None
    evidence = [*evidence, *(f"{node}: may not be opened" for node in denied[:2])]
    if c.job is not None and (denied or refusal == NO_DEVICES):
        return c.finding(
            "cuda.no-devices-visible",
            ERROR,
            f"The machine has {c.gpu_names}, and this job of {c.job['name']} was given no GPU.",
            evidence,
            str(c.job["give"]),
        )
    if c.container:
        return _container(c, refusal, evidence)
    if refusal == BLOCKED or denied:
        return _rights(c, denied, evidence)
    return None


def _windows(c: Context, nvidia: Nvidia, evidence: list[str]) -> Finding:
    return c.finding(
        "host.wsl",
        ERROR,
        f"WSL 2 passes a GPU through (/dev/dxg), and Windows does not let it be used: {nvidia.smi_error}."
        if nvidia.smi_error
        else "WSL 2 passes a GPU through (/dev/dxg), and the driver of Windows lists none.",
        evidence,
        WINDOWS,
    )


def _container(c: Context, refusal: str, evidence: list[str]) -> Finding:
    if refusal == NO_DEVICES:
        return c.finding(
            "cuda.no-devices-visible",
            ERROR,
            f"{c.gpus_are} on the bus, and the driver lists no device to this container ({c.container}).",
            evidence,
            "Where nvidia-smi lists it on the host, the container was not given it. "
            + container_cure(c.container, "give", c.tables),
        )
    return c.finding(
        "cuda.init-failed",
        ERROR,
        f"{c.gpu_names} and its device nodes are here, but this container ({c.container}) may not use them: the "
        "device rules of its cgroup were lost, as a `systemctl daemon-reload` on the host does, or never "
        "named them.",
        evidence,
        container_cure(c.container, "restart", c.tables),
    )


def _rights(c: Context, denied: list[str], evidence: list[str]) -> Finding:
    nodes = joined(denied[:2]) or "the GPU's device nodes"
    return c.finding(
        "cuda.no-devices-visible",
        ERROR,
        f"{c.gpus_are} here and this process may not open {nodes}: by its rights, or by the device rules "
        "of a cgroup (a batch job, a systemd unit with DeviceAllow).",
        evidence,
        "Join the group that owns the node and log in anew, or ask the scheduler for a GPU.",
        [f"ls -l {' '.join(denied[:2])}", "id"] if denied else [],
    )

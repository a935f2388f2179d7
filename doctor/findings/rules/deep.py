"""Rules about what happened when torch was really used (`check --deep`)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from doctor.facts import DeepCheck
from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, WARNING, Finding

SIGNS: tuple[tuple[str, str, str], ...] = (
    (r"no kernel image is available", "torch.arch-missing", "Install a torch with code for it."),
    (r"libuv", "torch.no-libuv", "Start torchrun through a wrapper that makes every TCPStore with "
     "use_libuv=False, or install a torch with libuv."),
    (r"out of memory", "cuda.oom", "End what holds the memory, then try again."),
    (r"Address already in use|EADDRINUSE", "dist.rendezvous-timeout", "Try again."),
    (r"all-reduce|timed? ?out|no answer within", "dist.rendezvous-timeout",
     "Look at the network interface, the firewall of this machine and NCCL_DEBUG=INFO."),
    (r"CUDA|cuda", "cuda.init-failed", "Run nvidia-smi, and look at the kernel's log."),
    (r"npu|NPU|ACL", "npu.init-failed", "Run npu-smi info, and look at the log of the device."),
)  # fmt: skip
"""What a failed experiment says -> problem code and cure; the first that matches counts."""


def experiments(c: Context) -> Iterator[Finding]:
    """One finding per way of failing, with all experiments that failed so."""
    deep, build = c.facts.deep, c.torch
    if deep is None or build is None:
        return
    failed = [check for check in deep.checks if check.ok is False]
    grouped: dict[tuple[str, str], list[DeepCheck]] = {}
    for check in failed:
        grouped.setdefault(_code(check), []).append(check)
    for (code, cure), checks in grouped.items():
        first = checks[0]
        yield c.finding(
            code,
            WARNING if code == "torch.no-libuv" else ERROR,
            f"{joined([check.name for check in checks[:4]])} failed with torch {build.version}: "
            f"{first.detail}.",
            [f"check --deep, {check.name}: {check.detail}" for check in checks[:6]],
            cure,
        )


def _code(check: DeepCheck) -> tuple[str, str]:
    if check.name == "import":
        return "torch.import-fails", "Install torch again, or mend what the message names."
    text = f"{check.name}: {check.detail}"
    for pattern, code, cure in SIGNS:
        if re.search(pattern, text):
            return code, cure
    return "torch.import-fails", "Install torch again for this Python."


RULES = (experiments,)

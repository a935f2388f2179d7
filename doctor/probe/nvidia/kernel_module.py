"""The NVIDIA kernel module on disk: is it built for the running kernel, who built it, what signs it."""

from __future__ import annotations

import contextlib
import re

from doctor.errors import Unknown
from doctor.facts import KernelModule
from doctor.knowledge.tables import Tables
from doctor.machine.system import System

NAMES = re.compile(r"(?:.*/)?nvidia(?:-current|-srv|-open|-current-open)?\.ko(?:\.(?:zst|xz|gz))?$")

FOLDERS = (
    "updates/dkms", "updates", "extra", "extra/nvidia", "kernel/drivers/video", "misc", "weak-updates",
    "weak-updates/nvidia", "extramodules",
)  # fmt: skip
"""Below a kernel's folder, where DKMS, akmods, kmp packages and the .run installer put modules."""

SIGNED = "kernel"
"""Below it lie in `nvidia-580-open` and the like the modules that Ubuntu signs itself."""

MOK_LIST = "/sys/firmware/efi/efivars/MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23"
SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"

LOG_LIMIT = 1 << 20

ERROR_LINE = re.compile(
    r"(?:error|Error \d+|ERROR|cannot|No such file|unable to find)", re.IGNORECASE
)


def _bytes(system: System, path: str) -> bytes | None:
    """A file that perhaps only root may read; unreadable is as good as absent here."""
    with contextlib.suppress(Unknown):
        return system.bytes(path)
    return None


def secure_boot(system: System) -> bool | None:
    """Whether the firmware lets only signed kernels and modules start; None where there is none, or it does not say.

    An EFI variable as the kernel shows it is 4 bytes of attributes and then its value.
    """
    data = _bytes(system, SECURE_BOOT)
    return data[4] == 1 if data is not None and len(data) > 4 else None


def probe(system: System, tables: Tables, kernel: str | None) -> KernelModule:
    """Look below /lib/modules and at what DKMS left."""
    kernels = system.names("/lib/modules")
    built = {name: path for name in kernels if (path := _module(system, name))}
    key = next(
        (r["path"] for r in tables.rows("drivers", "key") if system.is_file(r["path"])), None
    )
    version, error = _failed_build(system, kernel)
    return KernelModule(
        kernel=kernel,
        file=built.get(kernel or ""),
        other_kernels=tuple(name for name in built if name != kernel),
        kernel_known=bool(kernel and system.is_dir(f"/lib/modules/{kernel}")),
        headers=bool(kernel and system.exists(f"/lib/modules/{kernel}/build")),
        failed_build=version,
        build_error=error,
        secure_boot=secure_boot(system),
        key=key,
        key_enrolled=_enrolled(system, key),
        blacklisted_by=_blacklist(system),
    )


def _module(system: System, kernel: str) -> str | None:
    home = f"/lib/modules/{kernel}"
    folders = [f"{home}/{name}" for name in FOLDERS] + system.glob(f"{home}/{SIGNED}", "nvidia-")
    paths = (path for folder in folders for path in system.glob(folder, "nvidia"))
    return next((path for path in paths if NAMES.fullmatch(path)), None)


def _failed_build(system: System, kernel: str | None) -> tuple[str | None, str | None]:
    """Driver version whose last DKMS build for this kernel failed, and the first error in its log.

    DKMS moves the log of a build that succeeded to the kernel's own folder.
    """
    for tree in system.glob("/var/lib/dkms", "nvidia"):
        for version in system.names(tree):
            log = system.text(f"{tree}/{version}/build/make.log", LOG_LIMIT)
            if log is None or (kernel and kernel not in log):
                continue
            lines = [line.strip() for line in log.splitlines()[1:]]
            error = next((line[:160] for line in lines if ERROR_LINE.search(line)), None)
            return version, error
    return None, None


def _enrolled(system: System, key: str | None) -> bool | None:
    """Whether the firmware's list of the owner's keys holds a key; None where it cannot be read."""
    listed = _bytes(system, MOK_LIST)
    own = _bytes(system, key) if key else None
    return own in listed if listed is not None and own else None


def _blacklist(system: System) -> str | None:
    """The file that keeps the module from being loaded."""
    for folder in ("/etc/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"):
        for path in system.glob(folder, suffix=".conf"):
            if re.search(r"^\s*blacklist\s+nvidia\s*$", system.text(path) or "", re.MULTILINE):
                return path
    return None

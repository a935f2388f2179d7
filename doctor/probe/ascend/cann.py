"""CANN toolkits on disk, and whether set_env.sh of one took effect."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from doctor.facts import Cann
from doctor.machine.linker import Linker
from doctor.machine.look import bracketed, key_values
from doctor.machine.system import System

BASE = "/usr/local/Ascend"
HOME_VARIABLES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
LIBRARIES = ("libascendcl.so", "libhccl.so")
"""torch_npu needs both; the loader finds them only after set_env.sh."""

TOOLKIT_PARTS = ("runtime", "toolkit", "opp", "compiler")
KERNELS = re.compile(r"(kernels|ops).*install\.info$")


@dataclass(frozen=True)
class CannAnswer:
    """Toolkits, which one is active, and what of its environment is set."""

    toolkits: tuple[Cann, ...] = ()
    active: str | None = None
    sourced: bool | None = None
    missing: tuple[str, ...] = ()
    nnal: str | None = None

    @property
    def active_version(self) -> str | None:
        """Release of the active toolkit."""
        return next((t.version for t in self.toolkits if t.path == self.active), None)


def probe(system: System, linker: Linker) -> CannAnswer:
    """Find toolkits at their usual places and where the environment points."""
    found: dict[str, Cann] = {}
    for folder in _candidates(system):
        real = _real_toolkit(system, folder)
        if real and real not in found:
            found[real] = _read(system, real)
    toolkits = tuple(found.values())
    active = _active(system, toolkits)
    missing = tuple(_missing_environment(system, linker, active)) if active else ()
    nnal = next(
        (
            p
            for p in (system.env.get("ATB_HOME_PATH", ""), f"{BASE}/nnal")
            if p and system.is_dir(p)
        ),
        None,
    )
    return CannAnswer(
        toolkits=toolkits,
        active=active,
        sourced=not missing if active else None,
        missing=missing,
        nnal=nnal,
    )


def _candidates(system: System) -> Iterator[str]:
    for variable in HOME_VARIABLES:
        if system.env.get(variable, "").startswith("/"):
            yield system.env[variable]
    bases = [BASE, f"{system.home()}/Ascend"] if system.home() else [BASE]
    for base in bases:
        yield f"{base}/cann"
        yield from reversed(system.glob(base, "cann-"))
        yield f"{base}/ascend-toolkit/latest"
        yield from reversed(system.glob(f"{base}/ascend-toolkit"))
        yield f"{base}/latest"


def _real_toolkit(system: System, folder: str) -> str | None:
    """The folder that holds a toolkit; `latest` is one of links into it up to CANN 8.3."""
    for part in TOOLKIT_PARTS:
        if system.exists(f"{folder}/{part}/version.info"):
            return system.real(f"{folder}/{part}").rsplit("/", 1)[0]
    return None


def _read(system: System, folder: str) -> Cann:
    platform_folders = [f"{folder}/{n}" for n in system.names(folder) if n.endswith("-linux")]
    infos = {
        name: key_values(system.text(f"{place}/{name}") or "")
        for place in platform_folders
        for name in system.names(place)
        if name.endswith("install.info")
    }
    toolkit = next((v for k, v in infos.items() if "toolkit" in k), {})
    kernels = next((v for k, v in infos.items() if KERNELS.search(k)), None)
    parts = [
        key_values(system.text(f"{folder}/{part}/version.info") or "") for part in TOOLKIT_PARTS
    ]
    stated = next((p["version_dir"] for p in parts if p.get("version_dir")), None)
    version = toolkit.get("version") or stated
    kernel_name = kernels.get("package_name", "present") if kernels is not None else None
    if kernel_name is None and system.is_dir(f"{folder}/opp/built-in/op_impl/ai_core/tbe/kernel"):
        kernel_name = "present"
    scripts = (f"{folder}/set_env.sh", f"{folder.rsplit('/', 1)[0]}/set_env.sh")
    return Cann(
        path=folder,
        version=version,
        inner_version=toolkit.get("innerversion"),
        accepts_drivers=bracketed(toolkit.get("compatible_version", "")),
        kernels=kernel_name,
        set_env=next((s for s in scripts if system.exists(s)), None),
        unknown={} if version else {"version": "neither install.info nor version.info names it"},
    )


def _active(system: System, toolkits: tuple[Cann, ...]) -> str | None:
    """The toolkit that the environment points to, else the one that the usual links do."""
    known = {toolkit.path for toolkit in toolkits}
    for folder in _candidates(system):
        real = _real_toolkit(system, folder)
        if real in known:
            return real
    return None


def _missing_environment(system: System, linker: Linker, active: str) -> Iterator[str]:
    """What set_env.sh would have set and is not."""
    if not any(_real_toolkit(system, system.env.get(v, "")) for v in HOME_VARIABLES):
        yield "ASCEND_HOME_PATH"
    if any(linker.find(library) is None for library in LIBRARIES):
        yield "LD_LIBRARY_PATH"
    has_tbe = system.is_dir(f"{active}/python/site-packages/tbe")
    if has_tbe and not any(
        system.is_dir(f"{entry}/tbe") for entry in system.list_variable("PYTHONPATH")
    ):
        yield "PYTHONPATH"

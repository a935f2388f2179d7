"""The commands that bring back the packages which an installed torch asks for."""

from __future__ import annotations

from collections.abc import Sequence

from doctor.facts import SharedFiles, Torch, UnmetPin
from doctor.findings.context import Context
from doctor.knowledge.tables import Tables

INDEXED = ("pytorch-triton",)
"""Packages that only PyTorch's own index has, by the beginning of their names."""


def requirement(pin: UnmetPin) -> str:
    """`cuda-toolkit[cublas,cudart]==13.2.2`."""
    extras = f"[{','.join(pin.extras)}]" if pin.extras else ""
    return f"{pin.name}{extras}{pin.wanted}"


def intruders(torch: Torch) -> list[str]:
    """Packages of another CUDA that own files of those torch asks for, and that nothing else asks for."""
    found = [s.other for s in torch.shared_files if s.other_needed_by is None]
    found += [
        pin.rival.split(" ")[0] for pin in torch.unmet_pins if pin.rival and pin.installed is None
    ]
    return list(dict.fromkeys(found))


def unmet(torch: Torch) -> list[str]:
    """Requirements that are not met; absent packages count where libraries are missing, else others bring them."""
    absent = bool(torch.installed and torch.installed.missing_libraries)
    return [requirement(p) for p in torch.unmet_pins if p.installed or p.rival or absent]


def again(shared: Sequence[SharedFiles]) -> list[str]:
    """Packages that are there in name, and whose files may be another's: they go in again as they are."""
    return [f"{item.owner}=={item.owner_version}" for item in shared]


def cure(c: Context, names: Sequence[str] = ()) -> list[str]:
    """Commands: out with what wrote over, in with what is missing, and once more with what was written over.

    Args:
        names: beginnings of packages that are to go in again although their versions are right.
    """
    torch = c.facts.torch
    if torch is None:
        return []
    commands = [c.pip_uninstall(*intruders(torch))] if intruders(torch) else []
    if wanted := unmet(torch):
        commands.append(c.pip_install(*wanted, index=index(torch, c.tables)))
    lost = _named(c, names)
    if once_more := [*again(torch.shared_files), *lost]:
        commands.append(c.pip_reinstall(*once_more))
    return commands


def _named(c: Context, names: Sequence[str]) -> list[str]:
    """Installed packages that are to go in again; those in a wrong version go in anyway."""
    torch = c.facts.torch
    if torch is None or not names or torch.installed is None:
        return []
    owned = [m.package for m in torch.installed.missing_libraries if m.package]
    packages = c.facts.python.packages if c.facts.python else {}
    owned += [f"{name}=={version}" for name, version in packages.items()]
    wrong = {pin.name for pin in torch.unmet_pins} | {item.owner for item in torch.shared_files}
    return [
        package
        for package in dict.fromkeys(owned)
        if package.startswith(tuple(names)) and package.partition("==")[0] not in wrong
    ]


def index(torch: Torch, tables: Tables) -> str | None:
    """PyTorch's own index, for what no other has."""
    tag = torch.installed.local_tag if torch.installed else None
    special = any(pin.name.startswith(INDEXED) for pin in torch.unmet_pins)
    return tables.pytorch_index(tag) if special and tag else None

"""Kernel, architecture and versions of programs: asked of the machine, or read from files where nothing may be run.

Below `--root` without `--execute` the files of a tree are all there is: the kernel's own, those of the package manager,
the header of a program, the folder that a compiler keeps its parts in.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping

from doctor.errors import Unknown
from doctor.machine.elf import Elf, ElfError
from doctor.machine.linker import DEFAULT_FOLDERS
from doctor.machine.look import find_version
from doctor.machine.system import NOT_RUN, System

OSTYPE = "/proc/sys/kernel/ostype"
OSRELEASE = "/proc/sys/kernel/osrelease"
MODULES = "/lib/modules"

ESSENTIAL = ("/bin/sh", "/usr/bin/env", "/sbin/init", *(f"{f}/libc.so.6" for f in DEFAULT_FOLDERS))
"""What every system has of; one of them shows what processor the system is for."""

DPKG = "/var/lib/dpkg/status"
APK = "/lib/apk/db/installed"

PACKAGES = {"ld": "binutils", "ninja": "ninja-build", "cargo": "cargo", "rustc": "rustc"}
"""Program -> package of the distribution, where it is named otherwise."""

TRIPLE = re.compile(r"^[a-z0-9_]+-linux-gnu-")


def uname(system: System, option: str) -> str:
    """What `uname -s`, `-r` or `-m` says.

    Raises:
        Unknown: neither the program nor a file tells it.
    """
    if system.live:
        own = os.uname()
        return {"-s": own.sysname, "-r": own.release, "-m": own.machine}[option]
    try:
        if answer := system.output(["uname", option]).strip():
            return answer
        raise Unknown(f"uname {option} printed nothing")
    except Unknown:
        found = next(_from_files(system, option), None)
        if found is None:
            raise
        return found


def _from_files(system: System, option: str) -> Iterator[str]:
    """What the kernel's files, or those of the system, tell in place of uname."""
    if option == "-r":
        yield from (system.text(OSRELEASE) or "").split()[:1]
        if len(kernels := system.names(MODULES)) == 1 and not system.runs:
            yield kernels[0]
    elif not system.runs:
        machine = next(filter(None, (elf_machine(system, path) for path in ESSENTIAL)), None)
        if option == "-m" and machine:
            yield machine
        if option == "-s":
            yield from (system.text(OSTYPE) or "").split()[:1]
            if machine:
                yield "Linux"


def elf_machine(system: System, path: str) -> str | None:
    """Processor that a program or library was built for; None where it is no ELF file."""
    try:
        with system.opened(path) as view:
            return Elf(view).machine
    except (Unknown, ElfError):
        return None


def program_version(system: System, name: str, arguments: tuple[str, ...]) -> str:
    """Version of a program: what it says itself, or what the package manager noted.

    Raises:
        Unknown: neither tells it.
    """
    if system.runs:
        return stated_version(system.output([name, *arguments]))
    path = system.which(name)
    real = TRIPLE.sub("", system.real(path).rsplit("/", 1)[-1]) if path else name
    for package in dict.fromkeys((real, name, PACKAGES.get(name, name))):
        if version := packaged_version(system, package):
            return version
    if name in ("gcc", "g++") and (version := _compiler_folder(system)):
        return version
    raise Unknown(NOT_RUN)


def stated_version(text: str) -> str:
    """The version in what a program prints when it is asked for it.

    Raises:
        Unknown: there is none.
    """
    lines = text.strip().splitlines() or [""]
    # "GNU ld (GNU Binutils for Debian) 2.40" and "g++ (Debian 12.2.0-14) 12.2.0": the last counts
    stripped = re.sub(r"\([^()]*\)", " ", lines[0])
    return find_version(stripped if re.search(r"\d+\.\d+", stripped) else lines[0])


@functools.lru_cache(maxsize=2)
def _packages(system: System) -> Mapping[str, str]:
    """Package -> version as the distribution's package manager noted them, damaged entries left out."""
    found: dict[str, str] = {}
    for path, name, version in ((DPKG, "Package: ", "Version: "), (APK, "P:", "V:")):
        package = ""
        for line in (system.text(path) or "").splitlines():
            if line.startswith(name):
                package = line[len(name) :]
            elif line.startswith("Status: ") and not line.endswith(" installed"):
                package = ""
            elif line.startswith(version) and package:
                found[package] = line[len(version) :]
    return found


def packaged_version(system: System, package: str) -> str | None:
    """Version of an installed package, without the distribution's own number: `4:12.2.0-3` is 12.2.0."""
    number = re.match(r"(?:\d+:)?(\d+(?:\.\d+)+)", _packages(system).get(package, ""))
    return number.group(1) if number else None


def _compiler_folder(system: System) -> str | None:
    """`12` or `13.3.1`: where gcc keeps its own parts."""
    versions = {
        name
        for triple in system.names("/usr/lib/gcc")
        for name in system.names(f"/usr/lib/gcc/{triple}")
        if re.fullmatch(r"\d+(?:\.\d+)*", name)
    }
    return versions.pop() if len(versions) == 1 else None

"""What a libstdc++ offers."""

from __future__ import annotations

import re

from doctor.errors import Unknown
from doctor.knowledge.versions import parts
from doctor.machine.elf import Elf, ElfError
from doctor.machine.system import System

NAME = "libstdc++.so.6"


def offered(system: System, path: str | None) -> str:
    """Newest GLIBCXX symbol version of a libstdc++: `3.4.32`.

    Raises:
        Unknown: there is none, it cannot be read, or it names no version.
    """
    if path is None:
        raise Unknown(f"{NAME} is not on the loader's path")
    with system.opened(path) as view:
        try:
            section = Elf(view).section(".dynstr")
        except ElfError as error:
            raise Unknown(f"{path}: {error}") from error
        strings = view[section.offset : section.offset + section.size] if section else b""
    versions = re.findall(rb"GLIBCXX_(\d+(?:\.\d+)+)\0", strings)
    if not versions:
        raise Unknown(f"{path} names no GLIBCXX version")
    return max((str(version, "ascii") for version in versions), key=parts)

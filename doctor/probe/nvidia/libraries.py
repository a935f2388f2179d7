"""NVIDIA's libraries that are installed on the machine itself, not in a Python environment, and their headers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from doctor.facts import Library
from doctor.machine.linker import Linker
from doctor.machine.system import System

LIBRARIES = {
    "libcudnn.so.9": "cudnn.h",
    "libcudnn.so.8": "cudnn.h",
    "libnccl.so.2": "nccl.h",
}
"""Libraries with the header that a package of their own brings."""

INCLUDES = ("/usr/include", "/usr/local/include", "/usr/local/cuda/include")

VERSION = re.compile(r"\.so\.(\d+(?:\.\d+)+)$")


def probe(system: System, linker: Linker) -> Iterator[Library]:
    """The libraries that the loader finds."""
    for name, header in LIBRARIES.items():
        path = linker.find(name)
        if path:
            version = VERSION.search(system.real(path))
            yield Library(
                name=name,
                path=path,
                version=version[1] if version else None,
                header=_header(system, path, header),
            )


def _header(system: System, library: str, name: str) -> str | None:
    """In `include` beside the library's folder, there in the folder of its architecture, or in a usual place."""
    prefix, folder = os.path.split(os.path.dirname(library))
    if "-linux-" in folder:
        prefix = os.path.dirname(prefix)
    places = (f"{prefix}/include", f"{prefix}/include/{folder}", *INCLUDES)
    return next((f"{p}/{name}" for p in places if system.is_file(f"{p}/{name}")), None)

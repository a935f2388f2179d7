"""From where cuDNN gets its parts, which it opens by name when it needs them.

libcudnn.so.9 finds its sub-libraries as the loader finds any name: one that its own folder lacks, or that
LD_LIBRARY_PATH has first, comes from another cuDNN, and then it refuses to work
(CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH; pytorch/pytorch issues 188892 and 185512).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from doctor.facts import ForeignPart
from doctor.knowledge.versions import older, parts
from doctor.machine.linker import Closure, Linker, Loaded

SONAME = re.compile(r"libcudnn\.so\.9\b")
FULL_NAME = re.compile(r"\.so\.(\d+\.\d+\.\d+)$")

PARTS = (
    "graph",
    "ops",
    "cnn",
    "adv",
    "engines_precompiled",
    "engines_runtime_compiled",
    "heuristic",
)
"""Sub-libraries of every cuDNN 9 (its developer guide, "API Overview")."""

LATER_PARTS = {"engines_tensor_ir": "9.20", "ext": "9.26"}
"""Sub-library -> the cuDNN that first asks for it; it does without where there is none. 9.20 asked for the first
and its wheel did not bring it; both are in the wheel of 9.26."""


def read(
    linker: Linker, closure: Closure, wheel_version: str | None
) -> tuple[tuple[ForeignPart, ...], tuple[str, ...]]:
    """Parts that come from another cuDNN, and parts that are nowhere.

    Args:
        wheel_version: of the cuDNN package that torch asks for, where it is installed.
    """
    main = next((i for s, i in closure.libraries.items() if SONAME.match(s) and i.path), None)
    if main is None or not any(linker.has(_folder(main), f"libcudnn_{n}.so.9") for n in PARTS):
        return (), ()  # no cuDNN 9, or one that is not divided, as in a static build
    version = _version(linker, str(main.path)) or wheel_version
    later = [n for n, since in LATER_PARTS.items() if version and not older(version, since)]
    found = {n: linker.open_by_name(closure, main, f"libcudnn_{n}.so.9") for n in (*PARTS, *later)}
    missing = tuple(f"libcudnn_{n}.so.9" for n in PARTS if found[n] is None)
    return tuple(_foreign(linker, main, version, found)), missing


def _foreign(
    linker: Linker,
    main: Loaded,
    version: str | None,
    found: dict[str, tuple[str, str] | None],
) -> Iterator[ForeignPart]:
    home = linker.system.real(_folder(main))
    for name, place in found.items():
        if place is None or version is None:
            continue
        path, via = place
        theirs = _version(linker, path)
        if linker.system.real(posixpath.dirname(path)) == home or theirs is None:
            continue
        if parts(theirs)[:3] != parts(version)[:3]:
            yield ForeignPart(
                name=f"libcudnn_{name}.so.9",
                path=path,
                version=theirs,
                of=posixpath.normpath(str(main.path)),
                of_version=version,
                via=via,
            )


def _folder(item: Loaded) -> str:
    return posixpath.dirname(posixpath.normpath(str(item.path)))


def _version(linker: Linker, path: str) -> str | None:
    """The release that a library's real name ends with; pip's bear none."""
    match = FULL_NAME.search(linker.system.real(path))
    return match[1] if match else None
